"""Douban movie short comments: a quoted csv, a row per comment, of which user, movie and day are taken."""

from easrec.data.csv_rows import log_of_rows, read_csv_rows, read_header
from easrec.data.logs import Log
from easrec.data.readers.raw_files import RawFiles
from easrec.data.readers.reader import Reader
from easrec.data.times import parse_dates
from easrec.errors import InputError

_LOG = ("DMSC.csv", "DMSC.csv.gz")
_COLUMNS = ("Username", "Movie_Name_EN", "Date")


def _read(files: RawFiles) -> Log:
    name = files.find(_LOG)
    where = str(files.path / name)
    with files.open(name) as stream:
        header = read_header(stream, ",", '"', errors="replace")
    if missing := [column for column in _COLUMNS if header.count(column) != 1]:
        raise InputError(
            f"{where}: the first line has no column {missing[0]!r}; check that this is the right file"
        )
    with files.open(name) as stream:
        rows = read_csv_rows(stream, header=header, columns=_COLUMNS, delimiter=",", quote='"')
    user, item, day = _COLUMNS
    log = log_of_rows(
        rows,
        where=where,
        user=user,
        item=item,
        time=day,
        parse_times=lambda column: parse_dates(column, "%Y-%m-%d"),
    )
    if not len(log.timestamps):
        raise InputError(
            f"{where}: no line of it can be used ({log.malformed}); check that this is the right file"
        )
    return log


DOUBAN_READER = Reader(_LOG, _read)
