"""MovieLens: the tab-separated files of 100K, the `::` files of 1M and 10M, the csv files from 20M on."""

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO

from easrec.data.logs import Log, shown
from easrec.data.readers.item_rows import ItemRow, collect_items, text_lines
from easrec.data.readers.lines import NUMBER, log_of_columns, read_lines
from easrec.data.readers.raw_files import RawFiles
from easrec.data.readers.reader import RawItems, Reader
from easrec.data.readers.recbole import read_item_file

_GENRES_OF_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_NO_GENRES = "(no genres listed)"

_LOG_OF_100K = ("ml-100k.inter", "u.data")
_LOG_OF_DAT = ("ratings.dat",)
_LOG_OF_CSV = ("ratings.csv",)


def _read_100k(files: RawFiles) -> Log:
    name = files.find(_LOG_OF_100K)
    # RecBole's copy has a header of its own, the official file has none.
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float" if name.endswith(".inter") else ""
    return _read_ratings(files, name, "\t", header, "user, item, rating and time, with tabs between")


def _read_dat(files: RawFiles) -> Log:
    return _read_ratings(files, files.find(_LOG_OF_DAT), "::", "", "UserID::MovieID::Rating::Timestamp")


def _read_csv(files: RawFiles) -> Log:
    header = "userId,movieId,rating,timestamp"
    return _read_ratings(files, files.find(_LOG_OF_CSV), ",", header, header)


def _read_ratings(files: RawFiles, name: str, delimiter: str, header: str, what: str) -> Log:
    where = str(files.path / name)
    parts = (f"(?P<user>{NUMBER})", f"(?P<item>{NUMBER})", "[0-9.]+", f"(?P<time>{NUMBER})")
    with files.open(name) as stream:
        table, malformed = read_lines(
            stream,
            delimiter.join(parts),
            where=where,
            what=what,
            header=header,
            numbers=("user", "item", "time"),
        )
    return log_of_columns(table, malformed, where=where)


def _items_of_100k(files: RawFiles) -> RawItems:
    name = files.find_items(("u.item", "ml-100k.item"))
    if name != "u.item":
        items = read_item_file(files, name)
        return RawItems(items.item_ids, {"genres": items.features["class"]}, items.malformed)
    with files.open(name) as stream:
        return collect_items(text_lines(stream, "latin-1"), _item_of_100k, ("genres",))


def _item_of_100k(line: str) -> ItemRow:
    movie, *_ = parts = line.split("|")
    flags = parts[5:]
    if not movie.isdecimal() or len(flags) != len(_GENRES_OF_100K) or not set(flags) <= {"0", "1"}:
        raise ValueError(f"{shown(line)} is not an id, title, dates, address and 19 flags, with | between")
    return movie, {
        "genres": [genre for genre, flag in zip(_GENRES_OF_100K, flags, strict=True) if flag == "1"]
    }


def _items_of_dat(files: RawFiles) -> RawItems:
    with files.open(files.find_items(("movies.dat",))) as stream:
        # The file of 10M is in UTF-8; ids and genres are ASCII in both.
        return collect_items(text_lines(stream, "latin-1"), _item_of_dat, ("genres",))


def _item_of_dat(line: str) -> ItemRow:
    movie, first, rest = line.partition("::")
    _, second, genres = rest.rpartition("::")
    if not (first and second and movie.isdecimal()):
        raise ValueError(f"{shown(line)} is not MovieID::Title::Genres")
    return movie, {"genres": _genres(genres)}


def _items_of_csv(files: RawFiles) -> RawItems:
    with files.open(files.find_items(("movies.csv",))) as stream:
        return collect_items(_csv_rows(stream), _item_of_csv, ("genres",))


def _csv_rows(stream: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
    rows = csv.reader(text)
    for row in rows:
        if row and row != ["movieId", "title", "genres"]:
            yield rows.line_num, row
    text.detach()


def _item_of_csv(row: list[str]) -> ItemRow:
    if len(row) != 3 or not row[0].isdecimal():
        raise ValueError(f"{shown(','.join(row))} is not movieId,title,genres")
    return row[0], {"genres": _genres(row[2])}


def _genres(text: str) -> list[str]:
    return [] if text == _NO_GENRES else text.split("|")


ML_100K_READER = Reader(_LOG_OF_100K, _read_100k, _items_of_100k)
DAT_READER = Reader(_LOG_OF_DAT, _read_dat, _items_of_dat)
CSV_READER = Reader(_LOG_OF_CSV, _read_csv, _items_of_csv)
