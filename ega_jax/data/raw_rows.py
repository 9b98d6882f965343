"""Rows of a parquet or JSON-lines file, checked for shape and encoding but not yet for meaning.

Both formats end in the same plain values, so everything that judges a row (`ega_jax.data.mmeb`) exists once.
What makes a whole file useless (its columns, its container) is a `BadInputError`; what spoils one row is a
`BadRecordError`, which is handed out in the row's place, so that the caller may raise or count it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ega_jax.data.records import BadRecordError, is_unicode
from ega_jax.data.subsets import suggestion
from ega_jax.errors import BadInputError

Value = str | list[str]
"""What a cell holds; a null is the empty string, in a list too."""

_BATCH = 256  # an evaluation row may hold thousands of candidates


class Column(NamedTuple):
    """A column that is read.

    Attributes:
      name: its name.
      kind: what its cells are.
      required: whether a file without it is an error; else its cells are empty strings.
    """

    name: str
    kind: Literal["string", "list", "string or list"]
    required: bool = True


def raw_rows(file: Path, columns: tuple[Column, ...]) -> Iterator[tuple[int, dict[str, Value] | BadRecordError]]:
    """Each row of `file` with its number from 0 (in JSON lines: its line): the named columns, or what is wrong with it.

    Columns that are not named are ignored, unless one looks like a misspelling of a named one that is absent.

    Raises:
      BadInputError: the file cannot be read, or its columns are missing, misspelt or of another type.
    """
    return _parquet_rows(file, columns) if file.suffix == ".parquet" else _json_rows(file, columns)


def _parquet_rows(file: Path, columns: tuple[Column, ...]) -> Iterator[tuple[int, dict[str, Value] | BadRecordError]]:
    try:
        with pq.ParquetFile(file) as parquet:
            present = _check_schema(file, parquet.schema_arrow, columns)
            row = 0
            for batch in parquet.iter_batches(_BATCH, columns=[column.name for column in present]):
                yield from enumerate(_batch_rows(file, row, batch, columns), start=row)
                row += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last for names of columns
        reason = str(error).strip().splitlines()[0]
        raise BadInputError(f"{file}: cannot be read as parquet, perhaps an incomplete copy ({reason})") from error


def _check_schema(file: Path, schema: pa.Schema, columns: tuple[Column, ...]) -> list[Column]:
    """The columns that the file has."""
    problem = _missing_or_misspelt(schema.names, columns)
    if problem is not None:
        raise BadInputError(f"{file}: column {problem[0]!r} {problem[1]}")
    present = [column for column in columns if column.name in schema.names]
    for column in present:
        if schema.names.count(column.name) > 1:
            raise BadInputError(f"{file}: column {column.name!r} is there twice")
        kind = schema.field(column.name).type
        strings = "string" in column.kind and _is_string(kind)
        lists = "list" in column.kind and _is_list(kind) and _is_string(kind.value_type)
        if not strings and not lists:
            expected = column.kind.replace("list", "list of strings")
            raise BadInputError(f"{file}: column {column.name!r} is of type {kind}, expected {expected}")
    return present


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _batch_rows(
    file: Path, start: int, batch: pa.RecordBatch, columns: tuple[Column, ...]
) -> Iterator[dict[str, Value] | BadRecordError]:
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        # Somewhere in this batch: one cell at a time finds it.
        for index in range(batch.num_rows):
            yield _row_of_cells(file, start + index, batch.slice(index, 1), columns)
        return
    for row in rows:
        yield {column.name: _without_nulls(row.get(column.name)) for column in columns}


def _row_of_cells(
    file: Path, row: int, batch: pa.RecordBatch, columns: tuple[Column, ...]
) -> dict[str, Value] | BadRecordError:
    values = {column.name: _without_nulls(None) for column in columns}
    for name in batch.schema.names:
        try:
            values[name] = _without_nulls(batch.column(name)[0].as_py())
        except UnicodeDecodeError as error:
            return BadRecordError(file, row, name, f"not valid UTF-8: {error.reason} at byte {error.start}")
    return values


def _without_nulls(value: str | list[str | None] | None) -> Value:
    if value is None:
        return ""
    return value if isinstance(value, str) else ["" if element is None else element for element in value]


def _json_rows(file: Path, columns: tuple[Column, ...]) -> Iterator[tuple[int, dict[str, Value] | BadRecordError]]:
    try:
        with open(file, "rb") as lines:
            blank = None
            for row, line in enumerate(lines):
                if not line.strip():
                    blank = row if blank is None else blank
                    continue
                if blank is not None:  # a blank end is no row, but a gap is
                    yield blank, BadRecordError(file, blank, "line", "empty line")
                    blank = None
                yield row, _json_row(file, row, line.removeprefix(b"\xef\xbb\xbf") if row == 0 else line, columns)
    except OSError as error:
        raise BadInputError(f"{file}: cannot be read ({error.strerror})") from error


def _json_row(file: Path, row: int, line: bytes, columns: tuple[Column, ...]) -> dict[str, Value] | BadRecordError:
    try:
        content = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRecordError(file, row, "line", f"not valid UTF-8: {error.reason} at byte {error.start}")
    except (ValueError, RecursionError) as error:
        return BadRecordError(file, row, "line", f"not valid JSON: {error}")
    if not isinstance(content, dict):
        return BadRecordError(file, row, "line", f"not a JSON object: {_name(content)}")
    problem = _missing_or_misspelt(content, columns)
    if problem is not None:
        return BadRecordError(file, row, *problem)
    values = {}
    for column in columns:
        value = content.get(column.name)
        if value is not None and not isinstance(value, (str, list)):
            return BadRecordError(file, row, column.name, f"expected {column.kind}: it is {_name(value)}")
        if value is not None and ("list" if isinstance(value, list) else "string") not in column.kind:
            return BadRecordError(file, row, column.name, f"expected {column.kind}: it is {_name(value)}")
        for element in value if isinstance(value, list) else [value]:
            if element is not None and not isinstance(element, str):
                return BadRecordError(file, row, column.name, f"expected strings in the list: one is {_name(element)}")
            if element is not None and not is_unicode(element):
                return BadRecordError(file, row, column.name, "not valid Unicode: half of a surrogate pair")
        values[column.name] = _without_nulls(value)
    return values


def _missing_or_misspelt(names: Iterable[str], columns: tuple[Column, ...]) -> tuple[str, str] | None:
    """(field, clause) of the first column that is missing or seems to be misspelt."""
    known = {column.name for column in columns}
    unknown = [name for name in names if name not in known]
    for column in columns:
        if column.required and column.name not in names:
            return column.name, f"is missing{suggestion(column.name, unknown)}"
    absent = known.difference(names)
    for name in unknown:
        if hint := suggestion(name, absent):
            return name, f"is unknown{hint}"
    return None


def _name(value: object) -> str:
    return {dict: "an object", list: "a list", str: "a string", type(None): "null", bool: "true or false"}.get(
        type(value), "a number"
    )
