"""The study on frozen features: methods, settings and seeds, decided before the first run.

python benchmarks/evidence.py frozen
"""

from frozen.methods import METHODS
from frozen.study import Grid, Study
from frozen.training import Condition

CORE = ("info_nce", "control", "ega_normalized", "ega_rebalanced", "ega_normalized_absolute", "llave", "unime")
SIZES = ("info_nce", "control", "ega_normalized", "ega_rebalanced", "llave")

study = Study(
    space={
        "learning_rate": (2e-3, 2e-2),
        "temperature": (0.02, 0.3),
        "alpha": (1, 30),
        "beta": (0.25, 8),
        "margin": (0.02, 0.4),
        "bias": (1, 12),
    },
    trials=16,
    refined=16,
    spread=1.6,
    tuning_seeds=(0, 1),
    test_seeds=tuple(range(10, 18)),
    conditions={
        "plain": Condition(),
        "negatives": Condition(negatives=2),
        "homogeneous": Condition(homogeneous=True),
        "batch 32": Condition(batch=32),
        "batch 512": Condition(batch=512, steps=150),
        "batch 1024": Condition(batch=1024, steps=100),
        "twice, masked": Condition(twice=True),
        "twice, unmasked": Condition(twice=True, masked=False),
        "noise": Condition(noise=0.2),
    },
    grids=(
        Grid(("names", "digits", "patches"), ("plain",), tuple(METHODS)),
        Grid(("names", "patches"), ("negatives", "homogeneous"), tuple(METHODS)),
        Grid(("names",), ("twice, masked", "twice, unmasked", "noise", "batch 32"), CORE),
        Grid(("patches",), ("noise", "batch 32"), CORE),
        Grid(("names",), ("batch 512", "batch 1024"), SIZES),
    ),
    alphas=(1, 3, 5, 10, 20),
    betas=(0.25, 0.5, 1, 2, 4),
    map_methods=("ega_normalized", "ega_rebalanced"),
    map_seeds=tuple(range(20, 25)),
)
