"""Gowalla check-ins as SNAP has them: user, time, latitude, longitude, place, with tabs between, gzipped."""

from easrec.data.logs import Log
from easrec.data.readers.lines import NUMBER, log_of_columns, read_lines
from easrec.data.readers.raw_files import RawFiles
from easrec.data.readers.reader import Reader
from easrec.data.times import parse_dates

_LOG = ("loc-gowalla_totalCheckins.txt.gz", "loc-gowalla_totalCheckins.txt", "Gowalla_totalCheckins.txt")
_LINE = rf"(?P<user>{NUMBER})\t(?P<time>[0-9TZ:-]+)\t[^\t]*\t[^\t]*\t(?P<item>{NUMBER})"


def _read(files: RawFiles) -> Log:
    name = files.find(_LOG)
    where = str(files.path / name)
    with files.open(name) as stream:
        table, malformed = read_lines(
            stream,
            _LINE,
            where=where,
            what="user, time as in 2010-10-19T23:55:27Z, latitude, longitude and place, with tabs between",
            numbers=("user", "item"),
            parse_times=lambda column: parse_dates(column, "%Y-%m-%dT%H:%M:%SZ"),
        )
    return log_of_columns(table, malformed, where=where)


GOWALLA_READER = Reader(_LOG, _read)
