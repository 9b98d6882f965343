"""The study on Glyphs: a tiny LLaVA-OneVision, trained from random weights by each finalist and seed.

python benchmarks/evidence.py glyphs

Temperature, learning rate and all else are those of the demo, which were chosen for InfoNCE; nothing was tuned for
another method. "rebalanced" is left out: it was worse than InfoNCE on frozen features. One of them alone:

ega-jax train configs/evidence/glyphs.py --loss.beta 0
"""

import dataclasses
import runpy
from pathlib import Path

demo = runpy.run_path(str(Path(__file__).parents[1] / "glyphs.py"))["config"]
config = dataclasses.replace(demo, steps=300)
seeds = (0, 1, 2, 3, 4)

temperature = config.loss.temperature
finalists = {
    "info_nce": ("--loss.beta", 0),
    # EGA's relative hardness at α = 5 and β = 1, without the `1 +` of its weights: InfoNCE at a lower temperature.
    "control": ("--loss.beta", 0, "--loss.temperature", round(temperature / (1 + 5 * temperature), 4)),
    "ega_normalized": ("--loss.combine", "normalized", "--loss.alpha", 5, "--loss.beta", 1),
}
