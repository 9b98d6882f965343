"""MMEB whole: which of its 36 test sets are there, and whether each is as large as it was published.

A mean over fewer datasets, queries or candidates than the published ones is another number under the same name, and
mostly a higher one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ega_jax.data.row_rules import REPEATED_CANDIDATES
from ega_jax.data.subsets import SUBSETS
from ega_jax.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ega_jax.data.mmeb import ReadEvalSubset

QUERIES = 1000
"""Queries of each test set (arXiv 2410.05160, table 1)."""

CANDIDATES = dict.fromkeys(SUBSETS, 1000) | {
    "N24News": 24,
    "HatefulMemes": 2,
    "VOC2007": 20,
    "SUN397": 397,
    "Place365": 365,
    "ImageNet-R": 200,
    "ObjectNet": 313,
    "Country211": 211,
}
"""Candidates of each query; of classification these are the labels."""

_LEAST_SHARE = 0.9  # of the published candidates: pools were published with a few repeats, and versions differ by some


def shortfalls(subsets: Sequence[ReadEvalSubset]) -> dict[str, str]:
    """Which of MMEB's datasets have fewer queries or candidates than was published, and what they lack.

    Repeats that the reader dropped from a pool count as candidates here: they were published too.
    """
    found = {}
    for subset in subsets:
        name, queries = subset.info.name, len(subset.queries)
        pool = CANDIDATES[name]
        candidates = sum(map(len, subset.candidates)) + subset.skipped.mended[REPEATED_CANDIDATES]
        if queries < QUERIES:
            found[name] = f"{queries} of {QUERIES} queries"
        elif candidates < _LEAST_SHARE * pool * queries:
            found[name] = f"{candidates / queries:.6g} of {pool} candidates a query"
    return found


def require_whole(directory: object, missing: Collection[str], short: Mapping[str, str], *, partial: bool) -> None:
    """Refuses what is not all of MMEB, unless it is to be labelled as partial.

    Raises:
      BadInputError: names the datasets that are missing or short.
    """
    lacks = [f"{name} is missing" for name in SUBSETS if name in missing]
    lacks += [f"{name} has {what}" for name, what in short.items()]
    if lacks and not partial:
        raise BadInputError(
            f"{directory}: not the whole of MMEB: {'; '.join(lacks)}. Complete the data, or add --partial, "
            "which scores what is there and labels it so"
        )
