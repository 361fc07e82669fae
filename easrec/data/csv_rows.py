"""Tables of text (csv and the like) with lines that are no rows: these are left out and counted.

Legend: M interactions.
"""

import codecs
import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from easrec.data.logs import NOTHING_MALFORMED, Log, Malformed, Timestamps, make_ids, shown
from easrec.data.times import Bad

_DAMAGED = "\ufffd"
_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, eq=False)
class CsvRows:
    """The rows that have as many fields as the header."""

    table: Any
    """An Arrow table of texts, null where a field is empty."""
    malformed: Malformed
    """The lines with another number of fields."""
    had_bad_utf8: bool
    """Whether bytes that are no UTF-8 were replaced by U+FFFD."""


def read_csv_rows(
    stream: BinaryIO, *, header: Sequence[str], columns: Sequence[str], delimiter: str, quote: str
) -> CsvRows:
    """Read some columns of a table of text that begins with a header.

    Args:
        stream: the bytes, UTF-8 with or without a byte order mark.
        header: the names of all columns, as the first line has them.
        columns: those to read.
        delimiter: between fields.
        quote: around fields that hold delimiters or line breaks; "" if nothing is quoted.

    Raises:
        pyarrow.ArrowException: the bytes are no such table.
    """
    skipped: list[tuple[int, str]] = []

    def skip(row: Any) -> str:
        reason = f"{shown(row.text)} has not {row.expected_columns} fields but {row.actual_columns}"
        skipped.append((row.number, reason))
        return "skip"

    repaired = _RepairedUtf8(stream)
    encoded = pa.dictionary(pa.int32(), pa.string())
    table = pa.csv.read_csv(
        repaired,
        # Rows are numbered only when they are read by one thread.
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
        parse_options=pa.csv.ParseOptions(
            delimiter=delimiter,
            quote_char=quote or False,
            newlines_in_values=bool(quote),
            invalid_row_handler=skip,
        ),
        convert_options=pa.csv.ConvertOptions(
            include_columns=list(columns),
            column_types=dict.fromkeys(header, encoded),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    malformed = Malformed(len(skipped), *skipped[0]) if skipped else NOTHING_MALFORMED
    return CsvRows(table, malformed, repaired.had_bad_bytes)


def log_of_rows(
    rows: CsvRows,
    *,
    where: str,
    user: str,
    item: str,
    time: str,
    parse_times: Callable[[Any], tuple[Timestamps, Bad]],
) -> Log:
    """The log of rows, without those whose user, item or time cannot be used.

    Args:
        rows: what was read.
        where: names the file in errors.
        user: name of the column of user ids; likewise the two below.
        item: name of the column of item ids.
        time: name of the column of times.
        parse_times: gives numbers for an Arrow column without nulls, and which of them are bad.
    """
    table = rows.table.select([user, item, time])
    bad: Bad = np.zeros(table.num_rows, dtype=np.bool_)
    reasons: list[tuple[int, str]] = []

    def mark(wrong: Bad, reason: str) -> None:
        new = np.flatnonzero(wrong & ~bad)
        if len(new):
            reasons.append((int(new[0]), reason))
            bad[new] = True

    for name in (user, item, time):
        mark(table.column(name).is_null().to_numpy(), f"column {name!r} is empty")
    for name in (user, item):
        # A quote that is never closed swallows the lines that follow it.
        mark(_holding(table.column(name), "\n"), f"column {name!r} holds a line break")
        if rows.had_bad_utf8:
            mark(_holding(table.column(name), _DAMAGED), f"column {name!r} holds bytes that are no UTF-8")
    times = table.column(time).cast(pa.string())
    usable = np.flatnonzero(~bad)
    values, unusable = parse_times(times.take(usable) if bad.any() else times)
    wrong = np.zeros_like(bad)
    wrong[usable[unusable]] = True
    if wrong.any():
        example = times[int(np.argmax(wrong))].as_py()
        mark(wrong, f"column {time!r} holds {shown(example)}, which is no time")
    if unusable.any():
        # Once more without them, since whole numbers beside a text are read as fractions.
        values, _ = parse_times(times.take(np.flatnonzero(~bad)))
    malformed = rows.malformed
    if reasons:
        row, reason = min(reasons)
        # Exact after the header and the rows before it; if lines were skipped before it, theirs is the first.
        malformed += Malformed(int(bad.sum()), row + 2, reason)
    kept = table.filter(pa.array(~bad)) if bad.any() else table
    users, items = (
        make_ids(kept.column(name), where=f"{where}: column {name!r}", is_text_format=True)
        for name in (user, item)
    )
    return Log(users, items, values, malformed)


def read_header(stream: BinaryIO, delimiter: str, quote: str, *, errors: str = "strict") -> list[str]:
    """The names in the first line that is not blank of a table of text, UTF-8 with or without a BOM.

    Raises:
        UnicodeDecodeError, csv.Error: it is no such table; with `errors="replace"` only the latter.
    """
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors=errors, newline="")
    quoting: dict[str, Any] = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    try:
        return next((row for row in csv.reader(lines, delimiter=delimiter, **quoting) if row), [])
    finally:
        lines.detach()  # the stream is its opener's to close


def _holding(column: Any, part: str) -> Bad:
    """Which rows of a dictionary column hold a text with `part` in it."""
    column = column.unify_dictionaries()
    if not column.num_chunks:
        return np.zeros(0, dtype=np.bool_)
    values = column.chunk(0).dictionary
    found: Bad = pc.match_substring(values, part).to_numpy(zero_copy_only=False).astype(np.bool_)
    if not found.any():
        return np.zeros(len(column), dtype=np.bool_)
    codes = np.concatenate([chunk.indices.fill_null(0).to_numpy() for chunk in column.chunks])
    holding: Bad = found[codes] & ~column.is_null().to_numpy()
    return holding


class _RepairedUtf8(io.RawIOBase):
    """A stream with U+FFFD in place of bytes that are no UTF-8, at which Arrow would stop."""

    def __init__(self, stream: BinaryIO) -> None:
        self.had_bad_bytes = False
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while True:
            raw = self._stream.read(size)
            text = self._decoder.decode(raw, final=not raw)
            if text or not raw:
                break
        repaired = text.encode()
        # A character cut in two by the end of `raw` may be counted late, never U+FFFD itself.
        self.had_bad_bytes |= text.count(_DAMAGED) > raw.count(_DAMAGED.encode())
        return repaired
