"""Reads a compiled program's text (HLO): its computations, their instructions, and how often each loop runs."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

_ARRAY = re.compile(r"\b(pred|token|[subf]+\d+[a-z0-9]*|c64|c128)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?(\S+) = ")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([^\s(]+) .*\{$")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CHAIN = re.compile(r'chain_id="\d+"')
_CHANNEL = re.compile(r"channel_id=\d+")
_COMPARES_UP = "direction=LT"


@dataclasses.dataclass(frozen=True)
class Array:
    """The shape and element type of an array, as HLO writes them: `bf16[8,128]`."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        bits = 8 if self.dtype == "pred" else int((re.findall(r"\d+", self.dtype) or ["0"])[0])
        return math.prod(self.shape) * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `%name = arrays opcode(operands), attributes`. A tuple's arrays are all that it holds."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    argument: str
    """What stands between the parentheses: a constant's value, a parameter's number."""

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @property
    def chain(self) -> str | None:
        """What a collective on TPUs that goes on beside other work shares with its other pieces; None for any other.

        Its start, each fusion that it goes on in, and its end hold the same collective once more.
        """
        chain, channel = _CHAIN.search(self.attributes), _CHANNEL.search(self.attributes)
        return f"{chain[0]}, {channel[0]}" if chain and channel else None

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that it runs."""
        names = _CALLED.findall(self.attributes)
        for branches in _BRANCHES.findall(self.attributes):
            names += [name.strip().lstrip("%") for name in branches.split(",")]
        return tuple(names)


@dataclasses.dataclass(frozen=True)
class Computation:
    name: str
    instructions: dict[str, Instruction]
    root: str

    def source(self, name: str) -> Instruction:
        """The instruction that makes a value, past copies and bitcasts, and into tuples that are only taken apart."""
        one = self.instructions[name]
        while one.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start") and one.operands:
            one = self.instructions[one.operands[0]]
        if one.opcode == "get-tuple-element":
            of = self.instructions[one.operands[0]]
            if of.opcode == "tuple":
                return self.source(of.operands[_index(one)])
        return one


@dataclasses.dataclass(frozen=True)
class Module:
    computations: dict[str, Computation]
    entry: Computation

    def trip_count(self, loop: Instruction, where: Computation) -> int | None:
        """How often a `while` runs its body; None where that is not written down.

        XLA notes it for GPUs and CPUs. For TPUs it is read from the loop: a counter that starts at a constant, goes up
        by one, and is compared with another constant.
        """
        if known := _TRIP_COUNT.search(loop.attributes):
            return int(known[1])
        names = dict(re.findall(r"(body|condition)=%?([\w.\-]+)", loop.attributes))
        condition, body = self.computations[names["condition"]], self.computations[names["body"]]
        test = condition.source(condition.root)
        if test.opcode != "compare" or _COMPARES_UP not in test.attributes:
            return None
        counter, bound = (condition.source(operand) for operand in test.operands)
        if counter.opcode != "get-tuple-element":
            return None
        place = _index(counter)
        initial, last = _constant(_element(where, loop.operands[0], place)), _constant(bound)
        step = _step(body, place)
        if initial is None or last is None or step is None:
            return None
        return max(0, -(-(last - initial) // step))


def parse(text: str) -> Module:
    """Reads `compiled.as_text()`.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry = None
    for name, is_entry, lines in _blocks(text):
        parsed = [_instruction(line) for line in lines]
        found = [one for one in parsed if one is not None]
        root = next((one.name for one, is_root in found if is_root), found[-1][0].name if found else "")
        computations[name] = Computation(name, {one.name: one for one, _ in found}, root)
        if is_entry:
            entry = computations[name]
    if entry is None:
        raise ValueError("this is no HLO text: it has no ENTRY computation")
    return Module(computations, entry)


def _blocks(text: str) -> Iterator[tuple[str, bool, list[str]]]:
    name: str | None = None
    is_entry, lines = False, list[str]()
    for line in text.splitlines():
        if name is None:
            if not line.startswith(" ") and line.endswith("{") and (start := _COMPUTATION.match(line)):
                name, is_entry, lines = start[1], line.startswith("ENTRY"), []
        elif line == "}":  # others go on with an attribute that had line breaks
            yield name, is_entry, lines
            name = None
        else:
            lines.append(line)


def _instruction(line: str) -> tuple[Instruction, bool] | None:
    start = _INSTRUCTION.match(line)
    if start is None:
        return None
    rest = line[start.end() :]
    kind, rest = _balanced(rest) if rest.startswith("(") else rest.split(" ", 1)
    opcode, _, rest = rest.lstrip().partition("(")
    inside, attributes = _balanced("(" + rest)
    arrays = tuple(
        Array(dtype, tuple(int(size) for size in shape.split(",") if size)) for dtype, shape in _ARRAY.findall(kind)
    )
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(start[2], opcode, arrays, operands, attributes, inside[1:-1]), bool(start[1])


def _balanced(text: str) -> tuple[str, str]:
    """The leading parenthesis with all that it holds, and the rest."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[: place + 1], text[place + 1 :]
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")


def _index(element: Instruction) -> int:
    return int(element.attributes.split("index=")[1].split(",")[0])


def _element(where: Computation, tuple_name: str, place: int) -> Instruction | None:
    made = where.source(tuple_name)
    return where.source(made.operands[place]) if made.opcode == "tuple" else None


def _constant(one: Instruction | None) -> int | None:
    if one is None or one.opcode != "constant" or not re.fullmatch(r"-?\d+", one.argument):
        return None
    return int(one.argument)


def _step(body: Computation, place: int) -> int | None:
    """By how much a loop's body raises its counter."""
    after = _element(body, body.root, place)
    if after is None or after.opcode not in ("add", "fusion") or not after.operands:
        return None
    values = [_constant(body.source(operand)) for operand in after.operands]
    steps = [value for value in values if value is not None]
    # A fused increment has its constant inside; loops of jax count by one.
    return steps[0] if steps else (1 if after.opcode == "fusion" else None)
