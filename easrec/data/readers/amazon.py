"""Amazon reviews of one category, of 2014, 2018 or 2023: ratings as csv, or reviews as JSON lines.

The ratings of 2014 are user,item,rating,timestamp and those of 2018 item,user,rating,timestamp, neither with
a header: which column holds the users is seen from the ids themselves. Those of 2023 have a header.
"""

import re
from collections.abc import Mapping
from itertools import product
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from easrec.data.logs import Log
from easrec.data.readers.item_rows import ItemRow, collect_items
from easrec.data.readers.lines import NUMBER, log_of_columns, read_lines
from easrec.data.readers.raw_files import RawFiles
from easrec.data.readers.reader import RawItems, Reader
from easrec.data.readers.records import read_fields, read_records, texts_of
from easrec.errors import InputError

_ENDINGS = (".csv", ".csv.gz", ".json", ".json.gz", ".jsonl", ".jsonl.gz")
_LOG = (
    *(f"{prefix}*{ending}" for prefix, ending in product(("ratings_", "reviews_"), _ENDINGS)),
    *(f"[!m]*{ending}" for ending in _ENDINGS),
)
_HEADER = "user_id,parent_asin,rating,timestamp"
_LINE = rf"(?P<user>[^,\s]+),(?P<item>[^,\s]+),[0-9.]+,(?P<time>{NUMBER})"
# A reviewer's id; an item's is a B with nine characters, or a book's ISBN of ten digits.
_REVIEWER = "^A[0-9A-Z]{9,}$"
_LAYOUTS = (
    {"user": "reviewerID", "item": "asin", "time": "unixReviewTime"},
    {"user": "user_id", "item": "parent_asin", "time": "timestamp"},
)


def _read(files: RawFiles) -> Log:
    name = files.find(_LOG)
    where = str(files.path / name)
    if not name.removesuffix(".gz").endswith(".csv"):
        with files.open(name) as stream:
            table, malformed = read_fields(stream, _LAYOUTS, where=where)
        return log_of_columns(table, malformed, where=where)
    with files.open(name) as stream:
        has_header = stream.readline().strip() == _HEADER.encode()
    with files.open(name) as stream:
        table, malformed = read_lines(
            stream,
            _LINE,
            where=where,
            what=_HEADER if has_header else "user,item,rating,timestamp",
            header=_HEADER if has_header else "",
            numbers=("time",),
        )
    if not has_header and table.num_rows and not _users_come_first(table, where):
        table = table.rename_columns({"user": "item", "item": "user"})
    return log_of_columns(table, malformed, where=where)


def _users_come_first(table: Any, where: str) -> bool:
    """Whether more ids of the first column than of the second one are reviewers'."""
    first, second = (_reviewers_share(table.column(name)) for name in ("user", "item"))
    if first == second:
        raise InputError(
            f"{where}: neither column looks more like reviewers' ids (A and nine letters or digits) than the "
            "other; give the file a header and load it as a log of your own"
        )
    return first > second


def _reviewers_share(column: Any) -> float:
    ids = column.unify_dictionaries().chunk(0).dictionary
    return float(pc.mean(pc.match_substring_regex(ids, _REVIEWER).cast(pa.int8())).as_py())


def _items(files: RawFiles) -> RawItems:
    endings = ("json.gz", "jsonl.gz", "json", "jsonl")
    name = files.find_items(tuple(f"meta_{_category(files)}.{ending}" for ending in endings))
    with files.open(name) as stream:
        return collect_items(read_records(stream), _item, ("categories", "brand"))


def _category(files: RawFiles) -> str:
    """The category that the log is of: "Beauty" for reviews_Beauty_5.json.gz."""
    return re.sub(r"^(reviews|ratings)_|(_5)?(\.csv|\.jsonl?)(\.gz)?$", "", files.find(_LOG))


def _item(record: Mapping[str, Any] | str) -> ItemRow:
    if isinstance(record, str):
        raise ValueError(record)
    item = record.get("parent_asin") or record.get("asin")
    if not isinstance(item, str):
        raise ValueError("there is no 'asin'")
    # 2014: "categories" is a list of paths; 2018: "category" is one path; 2023: "categories" is one path.
    categories = texts_of(record.get("categories") or record.get("category"))
    brand = texts_of(record.get("brand") or record.get("store"))
    return item, {"categories": categories, "brand": brand}


AMAZON_READER = Reader(_LOG, _read, _items, _category)
