"""Published scores on MMEB (hit@1 in percent), to stand beside one's own, with what must be known to read them.

They were read off papers, their figures and the repositories of their authors, not measured here.
"""

from __future__ import annotations

from typing import NamedTuple

CAVEATS = {
    "all": "Harness, resolution, prompts and training data differ between rows: the same 7B weights score 65.8 in the "
    "first version of VLM2Vec's harness, 65.5 and 65.4 in later ones.",
    "ties": "Most harnesses rank the right candidate first among equals; this one ranks it last.",
    "figure": "Read off a figure or table that later papers repeat.",
    "macro": 'Published as "overall", but is the mean of the four meta-task means.',
    "mixed": "The source's own overall does not fit its parts; papers and pages give 59.3, 60.1 and 60.07 (by "
    "meta-tasks).",
    "control": "EGA's paper and this row differ in batch, resolution and negatives: the gap between them is not EGA's "
    "effect alone.",
    "citing": "Taken from papers that cite the model, which may copy one another.",
    "note": "From the project's pages; one paper that cites it gives 72.5.",
}
"""Footnotes by name; those of "all" and "ties" are about the whole table."""


class Anchor(NamedTuple):
    """One published row; None where a number was not published.

    Attributes:
      model: its name in the source, with what was trained where that is part of the row.
      classification, vqa, retrieval, grounding: means of the meta-tasks' datasets.
      in_distribution, out_of_distribution: means of 20 and 16 datasets.
      overall: mean of 36 datasets.
      macro: mean of the four meta-task means, where only that was published as overall.
      caveats: keys of `CAVEATS`.
    """

    model: str
    classification: float | None
    vqa: float | None
    retrieval: float | None
    grounding: float | None
    in_distribution: float | None
    out_of_distribution: float | None
    overall: float | None
    macro: float | None = None
    caveats: tuple[str, ...] = ()


ANCHORS = (
    Anchor("CLIP", 42.8, 9.1, 53.0, 51.8, 37.1, 38.7, 37.8),
    Anchor("OpenCLIP", 47.8, 10.9, 52.3, 53.3, 39.3, 40.2, 39.7),
    Anchor("SigLIP", None, None, None, None, 32.3, 38.0, 34.8),
    Anchor("CLIP, fine-tuned", 55.2, 19.7, 53.2, 62.2, 47.6, 42.8, 45.4),
    Anchor("VLM2Vec, Phi-3.5-V, LoRA", 54.8, 54.9, 62.3, 79.5, 66.5, 52.0, 60.1),
    Anchor("VLM2Vec, Phi-3.5-V, full", 52.8, 50.3, 57.8, 72.3, 62.8, 47.4, 55.9),
    Anchor("VLM2Vec, LLaVA-1.6, low resolution", 54.7, 50.3, 56.2, 64.0, 61.0, 47.5, 55.0),
    Anchor("VLM2Vec, LLaVA-1.6, high resolution", 61.2, 49.9, 67.4, 86.1, 67.5, 57.1, 62.9),
    Anchor("VLM2Vec, Qwen2-VL-2B", 59.0, 49.4, 65.4, 73.4, 66.0, 52.6, 59.3, caveats=("mixed",)),
    Anchor("VLM2Vec, Qwen2-VL-7B", 62.6, 57.8, 69.9, 81.7, 72.2, 57.8, 65.8),
    Anchor("VLM2Vec, LLaVA-OneVision-7B", 63.5, 61.1, 64.5, 87.3, 69.7, 61.0, 65.8, caveats=("figure", "control")),
    Anchor("VLM2Vec-V2, Qwen2-VL-2B", 62.9, 56.3, 69.5, 77.3, 68.8, 59.9, 64.9),
    Anchor("MMRet (BGE-VL), fine-tuned", 56.0, 57.4, 69.9, 83.6, 68.0, 59.1, 64.1, caveats=("figure",)),
    Anchor("mmE5, 11B", 67.6, 62.6, 71.0, 89.6, 72.3, 66.7, 69.8, caveats=("figure",)),
    Anchor("IDMR, 8B", 58.3, 58.6, 68.7, 85.6, None, None, 64.9, caveats=("citing",)),
    Anchor("IDMR, 26B", 66.3, 61.9, 71.1, 88.6, None, None, 69.2, caveats=("citing",)),
    Anchor("CAFe, 7B", 65.2, 65.6, 70.0, 91.2, 75.8, 62.4, 69.8, caveats=("citing",)),
    Anchor("LLaVE, 0.5B", None, None, None, None, None, None, 59.1, caveats=("figure",)),
    Anchor("LLaVE, 2B", 62.1, 60.2, 65.2, 84.9, 69.4, 59.8, 65.2, caveats=("figure",)),
    Anchor("LLaVE, 7B", 65.7, 65.4, 70.9, 91.9, 75.0, 64.4, 70.3, caveats=("figure",)),
    Anchor("UNITE, 7B", 68.3, 65.1, 71.6, 84.8, 73.6, 66.3, 70.3, caveats=("citing",)),
    Anchor("UniME, Phi-3.5-V", 54.8, 55.9, 64.5, 81.8, 68.2, 52.7, None, 64.2, ("macro",)),
    Anchor("UniME, LLaVA-1.6", 60.6, 52.9, 67.9, 85.1, 68.4, 57.9, 63.6, 66.6, ("macro",)),
    Anchor("UniME, LLaVA-OneVision-7B, 336 px", 66.8, 66.6, 70.5, 90.9, 74.6, 65.8, 70.7, caveats=("figure",)),
    Anchor("EGA, LLaVA-OneVision-7B", 66.8, 66.8, 70.5, 90.4, 74.7, 65.6, 70.7, caveats=("citing", "control")),
    Anchor("QQMM-embed", 70.07, 69.52, 71.175, 87.075, None, None, 72.175, caveats=("note",)),
    Anchor("QQMM-embed v2", 72.97, 71.85, 76.01, 87.42, None, None, 75.28, caveats=("note",)),
    Anchor("B3, 2B", 67.0, 61.2, 70.9, 79.9, 72.1, 63.1, 68.1, caveats=("figure",)),
    Anchor("B3, 7B", 70.0, 66.5, 74.1, 84.6, 75.9, 67.1, 72.0, caveats=("figure",)),
    Anchor("UniME-V2, Qwen2-VL-7B", 64.0, 60.1, 73.1, 82.8, 72.0, 63.0, 68.0),
    Anchor("UniME-V2, LLaVA-OneVision-7B", 65.3, 67.6, 72.9, 90.2, 74.8, 66.7, 71.2),
    Anchor("Ops-MM-embedding, 7B", 69.7, 69.6, 73.1, 87.2, None, None, 72.7, caveats=("citing",)),
    Anchor("RzenEmbed, 7B", 70.6, 71.7, 78.5, 92.1, 78.5, 72.7, 75.9),
    Anchor("Qwen3-VL-Embedding, 2B", 70.3, 74.3, 74.8, 88.5, None, None, 75.0),
    Anchor("Qwen3-VL-Embedding, 8B", 74.2, 81.1, 80.2, 92.3, None, None, 80.1),
)
"""In the order of their publication, roughly."""
