"""What a subset is made of: pairs, and the candidates that stand against a pair's gold one."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from ega_jax.data.glyphs.catalog import Glyph, Part
from ega_jax.data.glyphs.config import GlyphsConfig
from ega_jax.data.records import IMAGE_TOKEN, Distribution, MetaTask

T = TypeVar("T")
_NOTHING: Any = object()


class Item(NamedTuple):
    """One side of a row: a text and an image path, either of them "" when absent."""

    text: str
    path: str


class Candidate(NamedTuple):
    """An item that may be a right answer, and what it means; two of one meaning never stand against each other."""

    item: Item
    meaning: Hashable


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A query and its right answer.

    Attributes:
      query: the question.
      gold: the right answer.
      hard: wrong answers that must stand in the query's pool, each checked by whoever made the pair.
      negative: the explicit hard negative of the training row, or None.
    """

    query: Item
    gold: Candidate
    hard: tuple[Item, ...] = ()
    negative: Item | None = None


class EvalRow(NamedTuple):
    """A query and its candidates, the right one first."""

    query: Item
    candidates: list[Item]


@dataclasses.dataclass(frozen=True, slots=True)
class Subset:
    """One subset, ready to be written; a split without rows is not written."""

    name: str
    meta_task: MetaTask
    distribution: Distribution
    description: str
    train: list[Pair]
    validation: list[EvalRow]
    test: list[EvalRow]


def image_query(instruction: str, path: str) -> Item:
    """A query with an image, in MMEB's format."""
    return Item(f"{IMAGE_TOKEN}\n{instruction}\n", path)


def text_query(instruction: str) -> Item:
    """A query without an image."""
    return Item(f"{instruction}\n", "")


def image_target(glyph: Glyph) -> Candidate:
    """A glyph's picture as a target. It means its character and every other that looks the same."""
    return Candidate(Item(f"{IMAGE_TOKEN}\nRepresent the given image.", glyph.path), glyph.twins)


def text_target(text: str, meaning: Hashable = None) -> Candidate:
    """A label, an answer or a name as a target; it means what it says unless told otherwise."""
    return Candidate(Item(text, ""), text if meaning is None else meaning)


def spread(rng: random.Random, items: Iterable[T], group: Callable[[T], Hashable], count: int) -> list[T]:
    """At most `count` of the items, every group having its turn before any has a second one.

    A group gives its items in the order that they came in, but groups and the outcome are shuffled.
    """
    chosen = in_turn(items, group, rng)[:count]
    rng.shuffle(chosen)
    return chosen


def in_turn(items: Iterable[T], group: Callable[[T], Hashable], rng: random.Random | None = None) -> list[T]:
    """All items: each group's first, then each group's second, and so on; groups as they came, or shuffled."""
    groups: dict[Hashable, list[T]] = collections.defaultdict(list)
    for item in items:
        groups[group(item)].append(item)
    members = list(groups.values())
    if rng:
        rng.shuffle(members)
    rounds = itertools.zip_longest(*members, fillvalue=_NOTHING)
    return [item for turn in rounds for item in turn if item is not _NOTHING]


def with_pools(pairs: Sequence[Pair], gallery: Sequence[Candidate], size: int) -> list[EvalRow]:
    """Gives each pair its pool: the gold item, the pair's hard ones, then the gallery's in order, up to `size`.

    A candidate that is the gold item, means the same, or stands in the pool already is passed over.
    """
    rows = []
    for pair in pairs:
        pool = dict.fromkeys((pair.gold.item, *pair.hard))
        for item, meaning in gallery:
            if len(pool) >= size:
                break
            if meaning != pair.gold.meaning:
                pool[item] = None
        rows.append(EvalRow(pair.query, list(pool)))
    return rows


def assemble(
    name: str,
    meta_task: MetaTask,
    description: str,
    config: GlyphsConfig,
    pairs: Callable[[Part, random.Random, int], list[Pair]],
    gallery: Callable[[Part, Sequence[Pair]], Sequence[Candidate]],
    *,
    distribution: Distribution = "in",
    test_part: Part = "test",
    pool_size: int | None = None,
) -> Subset:
    """Makes a subset: training, validation and test rows each from their own part of the catalog.

    Args:
      name: directory name.
      meta_task: one of MMEB's four.
      description: one line for people.
      config: how many rows.
      pairs: from a part of the catalog, a source of chance and a number to that many pairs or fewer.
      gallery: from a part and its pairs to the candidates of all of them.
      distribution: "out" has test rows alone.
      test_part: the part that test rows show.
      pool_size: most candidates a row; None takes all that the gallery has.
    """

    def draw(part: Part, count: int) -> list[Pair]:
        return pairs(part, random.Random(f"{config.seed}/{name}/{part}"), count) if count else []

    def pooled(part: Part, count: int) -> list[EvalRow]:
        if not (drawn := draw(part, count)):
            return []
        candidates = gallery(part, drawn)
        return with_pools(drawn, candidates, pool_size or len(candidates) + 1)

    trained = distribution == "in"
    return Subset(
        name,
        meta_task,
        distribution,
        description,
        draw("train", config.train_rows if trained else 0),
        pooled("validation", config.validation_rows if trained else 0),
        pooled(test_part, config.test_rows),
    )


def labelled(glyphs: Iterable[Glyph], label: Callable[[Glyph], str | None]) -> list[tuple[Glyph, str]]:
    """One glyph for each picture, with its label; pictures that two glyphs label differently are left out."""
    labels: dict[str, set[str]] = collections.defaultdict(set)
    first: dict[str, Glyph] = {}
    for glyph in glyphs:
        if (found := label(glyph)) is not None:
            labels[glyph.path].add(found)
            first.setdefault(glyph.path, glyph)
    return [(glyph, *labels[path]) for path, glyph in first.items() if len(labels[path]) == 1]  # type: ignore[misc]
