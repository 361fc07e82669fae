"""Gathering what raw files say of items, row by row: item files are small beside logs."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, TypeVar

import pyarrow as pa

from easrec.data.logs import Malformed
from easrec.data.readers.reader import RawItems

Row = TypeVar("Row")
ItemRow = tuple[str, Mapping[str, Sequence[str]]]
"""An item's own id, and the values of its features by their names."""


def collect_items(
    rows: Iterable[tuple[int, Row]], parse: Callable[[Row], ItemRow], features: Sequence[str]
) -> RawItems:
    """The items of some rows.

    Args:
        rows: rows by the numbers of their lines.
        parse: gives the item of a row, or raises ValueError with what is wrong with it.
        features: the names of all features.
    """
    values: dict[str, Mapping[str, Sequence[str]]] = {}
    malformed = Malformed()
    for number, row in rows:
        try:
            item, found = parse(row)
            if item in values:
                raise ValueError(f"item {item!r} occurs again")
            values[item] = found
        except ValueError as fault:
            malformed += Malformed(1, number, str(fault))
    return RawItems(
        pa.array(values.keys(), pa.string()),
        {
            name: pa.array([_distinct(row[name]) for row in values.values()], pa.list_(pa.string()))
            for name in features
        },
        malformed,
    )


def _distinct(texts: Sequence[str]) -> list[str]:
    """Each text that is not empty once, in the order of the file."""
    return [text for text in dict.fromkeys(texts) if text]


def text_lines(stream: BinaryIO, encoding: str) -> Iterator[tuple[int, str]]:
    """The lines of a text that are not blank, without their ends, by their numbers from 1."""
    text = io.TextIOWrapper(stream, encoding=encoding, newline="\n")
    for number, line in enumerate(text, start=1):
        if line.strip():
            yield number, line.rstrip("\r\n")
    text.detach()
