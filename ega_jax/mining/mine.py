"""Mining one training subset: encode, compare, choose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ega_jax.data.images import identity
from ega_jax.mining.choose import MiningSettings, choose
from ega_jax.mining.neighbours import nearest_targets

if TYPE_CHECKING:
    from jaxtyping import Float32

    from ega_jax.data.records import Side, TrainRecord, TrainRows

Encode = Callable[[Sequence["Side"]], "Float32[np.ndarray, 'n D']"]


class MinedRow(NamedTuple):
    """One row and what was found for it.

    Attributes:
      record: the row as it was.
      negatives: its explicit ones, then those that were mined.
      positive_similarity: of its positive; of several, the largest.
      similarities: of the mined ones.
    """

    record: TrainRecord
    negatives: tuple[Side, ...]
    positive_similarity: float
    similarities: tuple[float, ...]


@dataclasses.dataclass
class Account:
    """What mining did to a subset.

    Attributes:
      rows, pool: rows, and distinct targets that negatives were taken from.
      mined: negatives in all.
      short: rows that have fewer than was asked for.
      false_negatives: neighbours left out as too near to the positive.
    """

    rows: int = 0
    pool: int = 0
    mined: int = 0
    short: int = 0
    false_negatives: int = 0


def mine_subset(rows: TrainRows, encode: Encode, settings: MiningSettings) -> tuple[list[MinedRow], Account]:
    """Finds hard negatives among the positives of the other rows of the same subset.

    Never a query's own positives, nor those of another row with an equal query, nor targets that say the same but for
    case and whitespace.

    Args:
      rows: of one subset.
      encode: sides to unit rows.
      settings: the rules.
    """
    records = [rows[row] for row in range(len(rows))]
    pool, place_of = _distinct([side for record in records for side in record.positives])
    queries, query_of = _distinct([record.query for record in records])
    said = [_said(side) for side in pool]
    alike: dict[tuple, list[int]] = {}
    for place, words in enumerate(said):
        alike.setdefault(words, []).append(place)

    def places_like(sides: Sequence[Side]) -> set[int]:
        return {place for side in sides for place in alike.get(_said(side), ())}

    right: list[set[int]] = [set() for _ in queries]
    for record in records:
        right[query_of[_item(record.query)]] |= places_like(record.positives)

    vectors = encode([*queries, *pool])
    query_vectors, pool_vectors = vectors[: len(queries)], vectors[len(queries) :]
    excluded = [
        sorted(right[query_of[_item(record.query)]] | places_like([*record.negatives, record.query]))
        for record in records
    ]
    of_row = np.asarray([query_of[_item(record.query)] for record in records])
    similarities, nearest = nearest_targets(query_vectors[of_row], pool_vectors, excluded, settings.last_rank)

    account = Account(rows=len(records), pool=len(pool))
    mined = []
    for number, record in enumerate(records):
        own = [place_of[_item(side)] for side in record.positives]
        positive = float((pool_vectors[own] @ query_vectors[of_row[number]]).max())
        wanted = max(settings.negatives - len(record.negatives), 0)
        chosen = choose(similarities[number], positive, wanted, settings, number)
        found = _without_repeats([int(nearest[number, place]) for place in chosen.places], said)
        account.mined += len(found)
        account.short += len(found) < wanted
        account.false_negatives += chosen.false_negatives
        by_place = dict(zip(nearest[number].tolist(), similarities[number].tolist(), strict=True))
        mined.append(
            MinedRow(
                record,
                (*record.negatives, *(pool[place] for place in found)),
                positive,
                tuple(by_place[place] for place in found),
            )
        )
    return mined, account


def _distinct(sides: Sequence[Side]) -> tuple[list[Side], dict[tuple, int]]:
    """The distinct items, and where each stands."""
    places: dict[tuple, int] = {}
    distinct: list[Side] = []
    for side in sides:
        if (item := _item(side)) not in places:
            places[item] = len(distinct)
            distinct.append(side)
    return distinct, places


def _item(side: Side) -> tuple:
    return side.text, *map(identity, side.images)


def _said(side: Side) -> tuple:
    """What a side says, whatever its case and whitespace."""
    return " ".join(side.text.casefold().split()), *map(identity, side.images)


def _without_repeats(places: Sequence[int], said: Sequence[tuple]) -> list[int]:
    """The first of each that say the same."""
    return list({said[place]: place for place in reversed(places)}.values())[::-1]
