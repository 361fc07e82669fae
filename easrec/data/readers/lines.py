"""Raw files of which each line is one interaction, in blocks, so that a file of any size can be read.

Legend: M interactions.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from easrec.data.logs import Log, Malformed, Timestamps, make_ids, shown
from easrec.data.times import Bad
from easrec.errors import InputError

BLOCK_BYTES = 8 << 20

NUMBER = "[0-9]{1,18}"
"""A whole number that fits into int64, as a regular expression."""

_END = r"\r?\n?$"


def line_blocks(stream: BinaryIO, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, Any]]:
    """Whole lines, block by block, with their line ends.

    Yields:
        The number of the block's first line, counted from 1, and its lines as an Arrow array of bytes.
    """
    first, rest = 1, b""
    while read := stream.read(block_bytes):
        block = rest + read
        end = block.rfind(b"\n") + 1
        rest = block[end:]
        if end:
            lines = _split(block[:end])
            yield first, lines
            first += len(lines)
    if rest:
        yield first, _split(rest)


def read_lines(
    stream: BinaryIO,
    pattern: str,
    *,
    where: str,
    what: str,
    header: str = "",
    numbers: Sequence[str] = (),
    parse_times: Callable[[Any], tuple[Timestamps, Bad]] | None = None,
) -> tuple[Any, Malformed]:
    """The parts of all lines that match a pattern.

    Args:
        stream: the bytes.
        pattern: what a line is, as a regular expression of RE2 without its end; its groups are named "user",
            "item" and "time".
        where: names the file in errors.
        what: what a line should be, in words that follow "is not".
        header: what the first line must be, as a regular expression; "" if there is no header.
        numbers: the groups that match `NUMBER` and nothing else.
        parse_times: gives numbers for texts of the group "time", and which of them are bad. None: "time" is
            one of the numbers.

    Returns:
        An Arrow table with a column per group: int64, or dictionaries of texts for "user" and "item" that are
        not among the numbers; and the lines that do not match, blank ones aside.

    Raises:
        InputError: the file is empty, or the first line is not the header.
    """
    parts: list[Any] = []
    malformed = Malformed()
    for first, lines in line_blocks(stream):
        if first == 1 and header:
            _check_header(lines[0].as_py(), header, where)
            first, lines = first + 1, lines[1:]
        found = pc.extract_regex(lines, f"^(?:{pattern}){_END}")
        names = [field.name for field in found.type]
        matching = found.is_valid().to_numpy(zero_copy_only=False)
        table = pa.table(dict(zip(names, found.drop_null().flatten(), strict=True)))
        readable = _readable([table.column(name) for name in names if name not in numbers], len(table))
        usable = np.zeros(len(lines), dtype=np.bool_)
        usable[np.flatnonzero(matching)[readable]] = True
        columns = {name: _typed(values, name in numbers) for name, values in _columns(table, readable)}
        if parse_times:
            times, bad = parse_times(columns["time"])
            usable[np.flatnonzero(usable)[bad]] = False
            columns = dict(_columns(pa.table(columns | {"time": times}), ~bad))
        for name in {"user", "item"}.difference(numbers):
            columns[name] = columns[name].dictionary_encode()
        parts.append(pa.table(columns))
        malformed += _malformed(first, lines, usable, what)
    if not parts:
        raise InputError(f"{where}: the file is empty; get it again")
    return pa.concat_tables(parts), malformed


def log_of_columns(table: Any, malformed: Malformed, *, where: str) -> Log:
    """The log of an Arrow table with the columns "user", "item" and "time", without nulls.

    Raises:
        InputError: there are no rows.
    """
    if not table.num_rows:
        raise InputError(
            f"{where}: no line of it can be used ({malformed}); check that this is the right file"
        )
    ids = {
        name: make_ids(table.column(name), where=f"{where}: the {name}", is_text_format=True)
        for name in ("user", "item")
    }
    return Log(ids["user"], ids["item"], table.column("time").to_numpy(), malformed)


def _split(block: bytes) -> Any:
    """The lines of a block as an Arrow array that shares its bytes."""
    ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n")) + 1
    if not len(ends) or ends[-1] != len(block):
        ends = np.append(ends, len(block))
    offsets = np.concatenate(([0], ends)).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(block)])


def _check_header(first_line: bytes, header: str, where: str) -> None:
    text = first_line.decode("utf-8-sig", "backslashreplace").rstrip("\r\n")
    if not re.fullmatch(header, text):
        raise InputError(
            f"{where}: the first line is {shown(text)}, not the expected header; check that this is the "
            "right file"
        )


def _readable(columns: Sequence[Any], num_rows: int) -> npt.NDArray[np.bool_]:
    """Which rows are UTF-8 in all columns of bytes."""
    readable = np.ones(num_rows, dtype=np.bool_)
    for values in columns:
        try:
            values.cast(pa.string())
        except pa.ArrowInvalid:
            readable &= np.array([_is_utf8(value) for value in values.to_pylist()], dtype=np.bool_)
    return readable


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _columns(table: Any, rows: npt.NDArray[np.bool_]) -> Iterator[tuple[str, Any]]:
    """The names and columns of a table, with the rows of a mask only."""
    kept = table if rows.all() else table.filter(pa.array(rows))
    return zip(kept.column_names, kept.columns, strict=True)


def _typed(values: Any, is_number: bool) -> Any:
    texts = values.cast(pa.string())
    return texts.cast(pa.int64()) if is_number else texts


def _malformed(first: int, lines: Any, usable: npt.NDArray[np.bool_], what: str) -> Malformed:
    bad = [index for index in np.flatnonzero(~usable).tolist() if lines[index].as_py().strip()]
    if not bad:
        return Malformed()
    text = lines[bad[0]].as_py().decode("utf-8", "backslashreplace").rstrip("\r\n")
    return Malformed(len(bad), first + bad[0], f"{shown(text)} is not {what}")
