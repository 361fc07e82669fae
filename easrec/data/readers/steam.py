"""Steam reviews and games: a dictionary as Python prints it in each line, gzipped."""

from collections.abc import Mapping
from typing import Any

from easrec.data.logs import Log
from easrec.data.readers.item_rows import ItemRow, collect_items
from easrec.data.readers.lines import log_of_columns
from easrec.data.readers.raw_files import RawFiles
from easrec.data.readers.reader import RawItems, Reader
from easrec.data.readers.records import read_fields, read_records, texts_of
from easrec.data.times import parse_dates

_LOG = ("steam_reviews.json.gz", "steam_reviews.json", "steam_new.json")
_ITEMS = ("steam_games.json.gz", "steam_games.json")
_FIELDS = {"user": "username", "item": "product_id", "time": "date"}


def _read(files: RawFiles) -> Log:
    name = files.find(_LOG)
    where = str(files.path / name)
    with files.open(name) as stream:
        table, malformed = read_fields(
            stream, (_FIELDS,), where=where, parse_times=lambda column: parse_dates(column, "%Y-%m-%d")
        )
    return log_of_columns(table, malformed, where=where)


def _items(files: RawFiles) -> RawItems:
    with files.open(files.find_items(_ITEMS)) as stream:
        return collect_items(read_records(stream), _item, ("genres", "tags"))


def _item(record: Mapping[str, Any] | str) -> ItemRow:
    if isinstance(record, str):
        raise ValueError(record)
    if not isinstance(record.get("id"), str):
        raise ValueError("there is no 'id'")
    return record["id"], {name: texts_of(record.get(name)) for name in ("genres", "tags")}


STEAM_READER = Reader(_LOG, _read, _items)
