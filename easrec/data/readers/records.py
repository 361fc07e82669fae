"""Raw files of which each line is one record: JSON, or a dictionary as Python prints it.

Legend: M interactions.
"""

import ast
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from easrec.data.logs import Malformed, Timestamps, shown
from easrec.data.readers.lines import line_blocks
from easrec.data.times import Bad
from easrec.errors import InputError

Layout = Mapping[str, str]
"""The names of the fields "user", "item" and "time" in a record."""

_LINES_AT_ONCE = 1000
_TOO_LARGE = 10**18

# The parser of Python's literals runs out of stack on a line that nests deeper than any record does.
_UNPARSABLE = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


def parse_record(line: bytes) -> dict[str, Any]:
    """The record in a line: a JSON object, or else a dictionary as Python prints it; nothing is executed.

    Raises:
        ValueError: the line is neither; the message says so in words.

    >>> parse_record(b"{u'username': u'Chaos Syren', u'hours': 0.1}")
    {'username': 'Chaos Syren', 'hours': 0.1}
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(line.decode('utf-8', 'backslashreplace'))} is no UTF-8") from error
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        try:
            record = ast.literal_eval(text.strip())
        except _UNPARSABLE as error:
            raise ValueError(f"{shown(text.strip())} is no record") from error
    if not isinstance(record, dict):
        raise ValueError(f"{shown(text.strip())} is no record")
    return record


def read_records(stream: BinaryIO) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The records of all lines that are not blank, by the numbers of the lines, counted from 1.

    Yields:
        The number and the record, or what is wrong with the line.
    """
    for first, lines in line_blocks(stream):
        yield from _records(first, lines)


def read_fields(
    stream: BinaryIO,
    layouts: Sequence[Layout],
    *,
    where: str,
    parse_times: Callable[[Any], tuple[Timestamps, Bad]] | None = None,
) -> tuple[Any, Malformed]:
    """User, item and time of all records.

    Args:
        stream: the bytes.
        layouts: what the fields may be called; the first whose names are all in a record is that of the file.
        where: names the file in errors.
        parse_times: gives numbers for times that are texts, and which of them are bad. None: the times are
            whole numbers.

    Returns:
        An Arrow table with the columns "user", "item" (dictionaries of texts) and "time"; and the lines that
        are no record with all three.

    Raises:
        InputError: no record has the names of any layout.
    """
    parts: list[Any] = []
    malformed = Malformed()
    layout: Layout | None = None
    for first, lines in line_blocks(stream):
        layout = layout or _layout(first, lines, layouts)
        table = _json_table(lines, layout) if layout and not parse_times else None
        if table is None:
            table, wrong = _line_by_line(first, lines, layout or layouts[0], parse_times)
            malformed += wrong
        parts.append(table)
    if layout is None:
        raise InputError(
            f"{where}: no line is a record with {', '.join(layouts[0].values())} ({malformed}); check that "
            "this is the right file"
        )
    return pa.concat_tables(parts), malformed


def texts_of(value: Any) -> list[str]:
    """The texts in a value: itself, or those of a list, of lists too; nothing of what else there may be.

    >>> texts_of([["Toys", "Puzzles"], ["Toys", "Games"], None])
    ['Toys', 'Puzzles', 'Toys', 'Games']
    """
    if isinstance(value, str):
        return [value.strip()] if value.strip() else []
    return [text for part in value for text in texts_of(part)] if isinstance(value, list) else []


def _records(first: int, lines: Any) -> list[tuple[int, dict[str, Any] | str]]:
    records: list[tuple[int, dict[str, Any] | str]] = []
    with warnings.catch_warnings():
        # Of backslashes in a Python literal that mean nothing; they are kept as they are.
        warnings.simplefilter("ignore")
        for number, line in enumerate(lines.to_pylist(), start=first):
            if line.strip():
                try:
                    records.append((number, parse_record(line)))
                except ValueError as error:
                    records.append((number, str(error)))
    return records


def _layout(first: int, lines: Any, layouts: Sequence[Layout]) -> Layout | None:
    """The layout of the first record that has one."""
    for start in range(0, len(lines), _LINES_AT_ONCE):
        for _, record in _records(first + start, lines[start : start + _LINES_AT_ONCE]):
            for layout in layouts:
                if not isinstance(record, str) and all(name in record for name in layout.values()):
                    return layout
    return None


def _json_table(lines: Any, layout: Layout) -> Any:
    """The fields of a block, if all of its lines are JSON and have them; else None."""
    block = lines.buffers()[2]
    schema = pa.schema(
        [(layout["user"], pa.string()), (layout["item"], pa.string()), (layout["time"], pa.int64())]
    )
    try:
        table = pa.json.read_json(
            pa.BufferReader(block),
            read_options=pa.json.ReadOptions(use_threads=False, block_size=block.size),
            parse_options=pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        lines.cast(pa.string())  # UTF-8 in all fields, as the slow way asks for it
    except pa.ArrowException:
        return None
    if table.num_rows != pc.sum(pc.match_substring_regex(lines, r"\S")).as_py():
        return None  # two records in one line
    table = table.select(schema.names).rename_columns(["user", "item", "time"])
    if any(column.null_count for column in table.columns) or any(
        pc.any(pc.equal(table.column(name), "")).as_py() for name in ("user", "item")
    ):
        return None
    return _encoded(table.column("user"), table.column("item"), table.column("time"))


def _line_by_line(
    first: int, lines: Any, layout: Layout, parse_times: Callable[[Any], tuple[Timestamps, Bad]] | None
) -> tuple[Any, Malformed]:
    rows: list[tuple[int, str, str, Any]] = []
    faults: list[tuple[int, str]] = []
    for number, record in _records(first, lines):
        row = record if isinstance(record, str) else _row(record, layout, texts=parse_times is not None)
        if isinstance(row, str):
            faults.append((number, row))
        else:
            rows.append((number, *row))
    numbers, users, items, times = zip(*rows, strict=True) if rows else ((), (), (), ())
    values: Any = pa.array(times, pa.string() if parse_times else pa.int64())
    if parse_times:
        values, bad = parse_times(values)
        faults += [
            (numbers[index], f"{layout['time']!r} is {shown(times[index])}, which is no date")
            for index in np.flatnonzero(bad)
        ]
        kept = pa.array(~bad)
        values = pa.array(values).filter(kept)
        users, items = (pa.array(column, pa.string()).filter(kept) for column in (users, items))
    table = _encoded(pa.array(users, pa.string()), pa.array(items, pa.string()), values)
    return table, Malformed(len(faults), *min(faults)) if faults else Malformed()


def _row(record: dict[str, Any], layout: Layout, *, texts: bool) -> tuple[str, str, Any] | str:
    """User, item and time of a record, or what is wrong with it."""
    for part, name in layout.items():
        value = record.get(name)
        if value is None or value == "":
            return f"there is no {name!r}"
        if part == "time" and not texts:
            if type(value) is not int or abs(value) >= _TOO_LARGE:
                return f"{name!r} is {shown(str(value))}, which is no number of seconds"
        elif not isinstance(value, str) or not _is_unicode(value):
            return f"{name!r} is {shown(str(value))}, which is no text"
    return record[layout["user"]], record[layout["item"]], record[layout["time"]]


def _is_unicode(text: str) -> bool:
    """Whether it can be written: JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encoded(users: Any, items: Any, times: Any) -> Any:
    return pa.table({"user": users.dictionary_encode(), "item": items.dictionary_encode(), "time": times})
