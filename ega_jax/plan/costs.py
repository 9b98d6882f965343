"""What a compiled program does in one run: operations, memory traffic, and bytes sent, times the trips of its loops.

`compiled.cost_analysis()` counts the body of a loop once, whatever its trip count; here a body counts as often as it
runs. All is of one device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ega_jax.plan.flops import flops
from ega_jax.plan.groups import replica_groups
from ega_jax.plan.hlo import Array, Computation, Instruction, Module
from ega_jax.plan.traffic import traffic

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass
class Costs:
    """Of one device and one run of a program.

    Attributes:
      flops: of matrix products, in convolutions and attention kernels too; elementwise work is not counted.
      memory_bytes: read from and written to the device's memory.
      sent: bytes sent, by (kind of collective, "fast" or "slow" link), as a ring would send them.
      calls: how many collectives ran, by the same.
      unknown_loops: loops whose trip count is not known; their bodies count once.
    """

    flops: int = 0
    memory_bytes: int = 0
    sent: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    calls: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0

    def sent_over(self, link: str) -> int:
        return sum(size for (_, over), size in self.sent.items() if over == link)

    def add(self, other: Costs, times: int) -> None:
        self.flops += other.flops * times
        self.memory_bytes += other.memory_bytes * times
        self.unknown_loops += other.unknown_loops
        for mine, theirs in ((self.sent, other.sent), (self.calls, other.calls)):
            for key, value in theirs.items():
                mine[key] = mine.get(key, 0) + value * times


def costs_of(module: Module, islands: Sequence[int]) -> Costs:
    """The costs of a program.

    Args:
      module: the program, of one device.
      islands: for each device, in the program's order, which set of fast links it is on: its host's or its slice's. A
        collective that leaves an island is "slow".
    """
    return _Reader(module, np.asarray(islands)).computation(module.entry)


class _Reader:
    def __init__(self, module: Module, islands: np.ndarray) -> None:
        self.module, self.islands = module, islands
        self.done: dict[tuple[str, bool], Costs] = {}
        self.counted: dict[str, str] = {}  # of a collective in pieces, the piece that counts

    def computation(self, one: Computation, *, fused: bool = False) -> Costs:
        """Inside a fusion nothing but its arguments and result touches memory."""
        if (one.name, fused) not in self.done:
            total = Costs()
            for instruction in one.instructions.values():
                self.instruction(instruction, one, total, fused)
            self.done[one.name, fused] = total
        return self.done[one.name, fused]

    def instruction(self, one: Instruction, where: Computation, total: Costs, fused: bool) -> None:
        operands = [where.instructions[name] for name in one.operands if name in where.instructions]
        total.flops += flops(one, [operand.arrays[0] if operand.arrays else Array("u8", ()) for operand in operands])
        if not fused:
            total.memory_bytes += traffic(one, operands, self.module)
        if (kind := one.opcode.removesuffix("-start")) in COLLECTIVES:
            self.collective(kind, one, sum(operand.bytes for operand in operands), total)
        elif one.opcode == "while":
            trips = self.module.trip_count(one, where)
            total.unknown_loops += trips is None
            for name in one.called:
                total.add(self.computation(self.module.computations[name]), 1 if trips is None else trips)
        elif one.opcode == "conditional":  # the dearest branch
            branches = [self.computation(self.module.computations[name]) for name in one.called]
            total.add(max(branches, key=lambda branch: (branch.flops, branch.memory_bytes)), 1)
        elif one.opcode in ("fusion", "call", "async-start"):
            for name in one.called:
                inside = self.computation(self.module.computations[name], fused=fused or one.opcode == "fusion")
                total.add(_scattered(inside) if one.name.startswith("all-reduce-scatter") else inside, 1)

    def collective(self, kind: str, one: Instruction, given: int, total: Costs) -> None:
        if one.chain is not None and self.counted.setdefault(one.chain, one.name) != one.name:
            return
        groups = replica_groups(one.attributes, len(self.islands))
        groups = np.arange(len(self.islands))[None] if groups is None else groups
        if groups.size == 0 or (size := groups.shape[1]) == 1:
            return
        owners = self.islands[groups]
        link = "fast" if (owners == owners[:, :1]).all() else "slow"
        sent = {
            "all-gather": (size - 1) * given,
            "all-reduce": 2 * (size - 1) * given // size,
            "collective-permute": given,
        }.get(kind, (size - 1) * given // size)
        total.sent[kind, link] = total.sent.get((kind, link), 0) + sent
        total.calls[kind, link] = total.calls.get((kind, link), 0) + 1


def _scattered(inside: Costs) -> Costs:
    """A TPU's reduce-scatter is a fusion of an all-reduce and a slice, and sends half of what the former would."""
    sent = {("reduce-scatter" if kind == "all-reduce" else kind, link): size // (2 if kind == "all-reduce" else 1)
            for (kind, link), size in inside.sent.items()}  # fmt: skip
    calls = {("reduce-scatter" if kind == "all-reduce" else kind, link): n for (kind, link), n in inside.calls.items()}
    return dataclasses.replace(inside, sent=sent, calls=calls)
