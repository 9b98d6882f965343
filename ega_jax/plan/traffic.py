"""Bytes that one instruction moves between a device's memory and its processors."""

from __future__ import annotations

from collections.abc import Sequence

from ega_jax.plan.hlo import Computation, Instruction, Module

# They name, rename or group what is there, or their insides are counted instead.
_FREE = frozenset((
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota",
    "after-all", "partition-id", "replica-id", "opt-barrier",
))  # fmt: skip


def traffic(one: Instruction, operands: Sequence[Instruction], module: Module) -> int:
    """Operands read once and results written once; of an array that is only sliced or updated in place, the part.

    The completion of what was started before is free: its bytes count at the start.
    """
    if one.opcode in _FREE or one.opcode.endswith("-done") or one.opcode == "async-update":
        return 0
    if one.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * one.bytes
    if one.opcode == "dynamic-update-slice":
        return 2 * operands[1].bytes
    if one.opcode.endswith("-start"):
        return 2 * sum(operand.bytes for operand in operands)
    if one.opcode != "fusion":
        return one.bytes + sum(operand.bytes for operand in operands)
    inside = module.computations[one.called[0]]
    root = inside.instructions[inside.root]
    if "AsyncCollectiveDone" in root.attributes:
        return 0
    if "AsyncCollectiveStart" in root.attributes:
        return 2 * sum(operand.bytes for operand in operands)
    parameters = [each for each in inside.instructions.values() if each.opcode == "parameter"]
    return _written(one, inside) + sum(_read(each, inside) for each in parameters)


def _read(parameter: Instruction, inside: Computation) -> int:
    names, parts = {parameter.name}, 0
    for user in inside.instructions.values():  # in order: what is used is above its users
        if not names.intersection(user.operands):
            continue
        if user.opcode == "bitcast":
            names.add(user.name)
        elif user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] in names:
            parts += user.bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] in names:
            continue  # in place: what it does not write it does not read
        elif user.opcode == "tuple" or user.chain is not None:
            continue  # handed on as it is, or a collective that counts at its start
        else:
            return parameter.bytes
    return min(parts, parameter.bytes)


def _written(fusion: Instruction, inside: Computation) -> int:
    root = inside.source(inside.root)
    if root.opcode == "dynamic-update-slice":
        return inside.instructions[root.operands[1]].bytes
    if root.opcode != "tuple":
        return fusion.bytes
    written = 0
    for name in root.operands:
        result = inside.source(name)
        if result.opcode == "dynamic-update-slice":
            written += inside.instructions[result.operands[1]].bytes
        elif inside.instructions[name].opcode != "parameter" and result.chain is None:
            written += inside.instructions[name].bytes
    return written
