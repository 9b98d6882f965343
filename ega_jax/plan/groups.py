"""Which devices take part in a collective: the three ways in which HLO writes replica groups."""

from __future__ import annotations

import re

import numpy as np

_LISTS = re.compile(r"replica_groups=\{(\{[\d,{} ]*\})?\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{([\d,{} ]*)\}")


def replica_groups(attributes: str, devices: int) -> np.ndarray | None:
    """The groups of a collective, (groups, devices of one), as places in the program's device order.

    Pairs of a collective-permute are groups of two; None where nothing is written.

    Raises:
      ValueError: the groups are written in a way that is not known.
    """
    if pairs := _PAIRS.search(attributes):
        return np.array(re.findall(r"\{(\d+),(\d+)\}", "{" + pairs[1] + "}"), int).reshape(-1, 2)
    if "replica_groups=" not in attributes:
        return None
    if lists := _LISTS.search(attributes):
        rows = [[int(place) for place in row.split(",")] for row in re.findall(r"\{([\d,]+)\}", lists[1] or "")]
        return np.array(rows or [list(range(devices))], int)
    if iota := _IOTA.search(attributes):
        return _ordered(iota[2], iota[3]).reshape(_numbers(iota[1]))
    if mesh := _MESH.search(attributes):
        return _mesh_groups(mesh)
    raise ValueError(f"unknown replica groups: {attributes[attributes.index('replica_groups=') :][:120]}")


def _mesh_groups(mesh: re.Match[str]) -> np.ndarray:
    names, sizes = zip(*((name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])), strict=True)
    ids = _ordered(mesh[2], mesh[3]) if mesh[2] else np.arange(int(np.prod(sizes)))
    # A part of an axis is 'name':(what is before it)size.
    split: list[int] = []
    inside: list[int] = []
    parts = {name: (int(before or 1), int(size or 0)) for name, before, size in re.findall(
        r"'([^']+)'(?::\((\d+)\)(\d+))?", mesh[4]
    )}  # fmt: skip
    for name, whole in zip(names, sizes, strict=True):
        before, size = parts.get(name, (1, 1))
        size = size or whole
        inside.append(len(split) + 1)
        split += [before, size, whole // (before * size)]
    grid = ids.reshape(split)
    outside = [axis for axis in range(len(split)) if axis not in inside]
    return grid.transpose(*outside, *inside).reshape(-1, int(np.prod([split[axis] for axis in inside])))


def _ordered(shape: str, permutation: str | None) -> np.ndarray:
    grid = np.arange(int(np.prod(_numbers(shape)))).reshape(_numbers(shape))
    return grid.transpose(_numbers(permutation)) if permutation else grid


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))
