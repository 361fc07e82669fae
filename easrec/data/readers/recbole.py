"""RecBole's atomic files of items: tab-separated, with a type after each name in the header."""

import csv

from easrec.data.logs import shown
from easrec.data.readers.item_rows import ItemRow, collect_items, text_lines
from easrec.data.readers.raw_files import RawFiles
from easrec.data.readers.reader import RawItems
from easrec.errors import InputError


def read_item_file(files: RawFiles, name: str, *, item_column: str = "item_id") -> RawItems:
    """The features of a .item file: each column of tokens (one value) and of token sequences (by spaces).

    Args:
        files: where the file is.
        name: the file.
        item_column: the column of item ids, without its type.

    Raises:
        InputError: the header names no item ids, or the file cannot be read.
    """
    with files.open(name) as stream:
        lines = text_lines(stream, "utf-8-sig")
        _, first = next(lines, (0, ""))
        header = [
            column.rpartition(":")
            for column in next(csv.reader([first], delimiter="\t", quoting=csv.QUOTE_NONE), [])
        ]
        names = [column for column, _, _ in header]
        if names.count(item_column) != 1:
            raise InputError(
                f"{files.path / name}: there is no column {item_column!r}; found are "
                f"{', '.join(map(repr, names)) or 'none'}"
            )
        kinds = {column: kind for column, _, kind in header if column != item_column}
        features = [column for column, kind in kinds.items() if kind in ("token", "token_seq")]

        def parse(line: str) -> ItemRow:
            fields = line.split("\t")
            if len(fields) != len(names):
                raise ValueError(f"{shown(line)} has not {len(names)} fields but {len(fields)}")
            row = dict(zip(names, fields, strict=True))
            if not row[item_column]:
                raise ValueError(f"column {item_column!r} is empty")
            return row[item_column], {
                column: row[column].split(" ") if kinds[column] == "token_seq" else [row[column]]
                for column in features
            }

        return collect_items(lines, parse, features)
