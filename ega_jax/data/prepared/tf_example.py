"""tf.train.Example messages, written and read without TensorFlow: equal rows give equal bytes.

The message (tensorflow/core/example/example.proto) is a map from names to lists. A protobuf library is free to order a
map as it likes, and does; here it is ordered by name. TFDS reads the result like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

_LENGTH = 2  # the wire type of all fields here
_BYTES_LIST, _INT64_LIST = 1, 3  # fields of Feature

Values = list[bytes] | list[int]


def encode(features: Mapping[str, Sequence[bytes] | Sequence[int]]) -> bytes:
    """The message of lists of bytes or of non-negative integers, by name."""
    entries = []
    for name in sorted(features):
        values = features[name]
        if values and isinstance(values[0], int):
            packed = b"".join(_varint(value) for value in values if isinstance(value, int))
            feature = _field(_INT64_LIST, _field(1, packed))
        else:
            feature = _field(_BYTES_LIST, b"".join(_field(1, value) for value in values if isinstance(value, bytes)))
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def decode(message: bytes) -> dict[str, Values]:
    """What `encode` was given; an empty list is one of bytes.

    Raises:
      ValueError: it is no such message.
    """
    features: dict[str, Values] = {}
    try:
        for _, body in _fields(memoryview(message)):
            for _, entry in _fields(body):
                (_, name), (_, feature) = _fields(entry)
                values: Values = []
                for kind, content in _fields(feature):
                    if kind == _BYTES_LIST:
                        values = [bytes(value) for _, value in _fields(content)]
                    else:
                        values = [number for _, packed in _fields(content) for number in _varints(packed)]
                features[bytes(name).decode()] = values
    except IndexError:
        raise ValueError("a message that ends too early") from None
    return features


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _LENGTH]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of each field, all of which have a length here."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        if tag & 7 != _LENGTH:
            raise ValueError(f"a field of wire type {tag & 7}, expected {_LENGTH}")
        length, at = _read_varint(message, at)
        if at + length > len(message):
            raise IndexError
        yield tag >> 3, message[at : at + length]
        at += length


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _read_varint(packed, at)
        yield value


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
