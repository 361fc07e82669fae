"""Reading a log file: its three columns, checked, in the order of the file.

Legend: M interactions.
"""

import csv
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from easrec.data.csv_rows import log_of_rows, read_csv_rows, read_header
from easrec.data.logs import Log, Malformed, Timestamps, make_ids
from easrec.data.times import parse_numbers
from easrec.errors import InputError
from easrec.files import what_is_at

FORMATS = (".parquet", ".csv", ".inter")

OnMalformed = Literal["refuse", "skip"]


def read_log(
    path: Path,
    *,
    user_column: str,
    item_column: str,
    time_column: str,
    malformed: OnMalformed = "refuse",
) -> Log:
    """Read three columns of a .parquet, .csv (comma) or .inter (tab, types in the header) file.

    Ids of a text format become numbers if all of the column are whole numbers; parquet keeps the
    type it states. Dates and times of parquet count as numbers.

    Args:
        path: the file.
        user_column: name of the column of user ids; likewise the two below. In a .inter file, without the
            type that follows the colon.
        item_column: name of the column of item ids.
        time_column: name of the column of timestamps.
        malformed: "refuse" a file with a line that cannot be used, or "skip" such lines of a .csv or .inter
            file, which are then counted in `Log.malformed`. A parquet file with nulls is refused always.

    Raises:
        InputError: one sentence that says what is wrong, where, and what to do.
    """
    columns = {
        "user_column": user_column,
        "item_column": item_column,
        "time_column": time_column,
    }
    if path.suffix not in FORMATS:
        raise InputError(
            f"{path}: the ending {path.suffix!r} names no format that can be read; give a file "
            f"that ends in {', '.join(FORMATS)}, or, for the raw file of a known data set, that name too"
        )
    if (there := what_is_at(path)) != "file":
        no = "no such file" if there == "nothing" else "a directory of that name, no file"
        raise InputError(f"{path}: there is {no}; check the path")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; give a log with a header and rows")
    try:
        if path.suffix == ".parquet":
            table = _read_parquet(path, columns)
        elif malformed == "refuse":
            table = _read_text(path, columns)
        else:
            return _read_damaged_text(path, columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: cannot be read as {path.suffix} ({reason}); repair or convert the file"
        ) from error
    if table.num_rows == 0:
        raise _no_rows(path, Malformed())
    for name in columns.values():
        if nulls := table.column(name).null_count:
            raise InputError(
                f"{path}: column {name!r} is empty (null) in {nulls} of {table.num_rows} rows; "
                "fill these in or remove the rows"
            )
    users, items = (
        make_ids(
            table.column(name),
            where=f"{path}: column {name!r}",
            is_text_format=path.suffix != ".parquet",
        )
        for name in (user_column, item_column)
    )
    return Log(users, items, _timestamps(path, time_column, table.column(time_column)))


def _no_rows(path: Path, malformed: Malformed) -> InputError:
    but = f" that can be used ({malformed})" if malformed.count else ""
    return InputError(f"{path}: the file has a header but no rows{but}; give a log with rows")


def _read_parquet(path: Path, columns: Mapping[str, str]) -> Any:
    _check_columns(path, columns, pa.parquet.read_schema(path).names)
    return pa.parquet.read_table(path, columns=list(columns.values()))


def _read_text(path: Path, columns: Mapping[str, str]) -> Any:
    _, (user, item, time), (delimiter, quote) = _text_layout(path, columns, errors="strict")
    # Texts throughout: type inference would make the id "007" a 7, and would stop at a bad
    # timestamp without telling its row.
    encoded = pa.dictionary(pa.int32(), pa.string())
    table = pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, quote_char=quote or False),
        convert_options=pa.csv.ConvertOptions(
            include_columns=[user, item, time],
            column_types={user: encoded, item: encoded, time: pa.string()},
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    return table.rename_columns(list(columns.values()))


def _read_damaged_text(path: Path, columns: Mapping[str, str]) -> Log:
    header, (user, item, time), (delimiter, quote) = _text_layout(path, columns, errors="replace")
    with path.open("rb") as stream:
        rows = read_csv_rows(
            stream, header=header, columns=(user, item, time), delimiter=delimiter, quote=quote
        )
    log = log_of_rows(rows, where=str(path), user=user, item=item, time=time, parse_times=parse_numbers)
    if not len(log.timestamps):
        raise _no_rows(path, log.malformed)
    return log


def _text_layout(
    path: Path, columns: Mapping[str, str], *, errors: str
) -> tuple[list[str], list[str], tuple[str, str]]:
    """All names of the header, those of user, item and time, and the delimiter and the quote."""
    atomic = path.suffix == ".inter"
    layout = ("\t", "") if atomic else (",", '"')
    with path.open("rb") as stream:
        header = read_header(stream, *layout, errors=errors)
    # The header of a .inter file states a type after each name, as in "user_id:token".
    found = [name.rsplit(":", 1)[0] for name in header] if atomic else header
    _check_columns(path, columns, found)
    return header, [header[found.index(name)] for name in columns.values()], layout


def _check_columns(path: Path, columns: Mapping[str, str], found: list[str]) -> None:
    if len(set(columns.values())) < len(columns):
        raise InputError(f"{path}: user, item and time must be three columns, got {list(columns.values())}")
    for option, name in columns.items():
        if found.count(name) == 1:
            continue
        if name in found:
            raise InputError(f"{path}: column {name!r} occurs more than once; rename the others")
        by_lower_case = {other.lower(): other for other in found}
        close = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.5)
        closest = f" (the closest is {by_lower_case[close[0]]!r})" if close else ""
        raise InputError(
            f"{path}: there is no column {name!r}; found are "
            f"{', '.join(map(repr, found)) or 'none'}{closest}; say with {option} "
            f"(--{option.replace('_', '-')}) which one it is"
        )


def _timestamps(path: Path, name: str, column: Any) -> Timestamps:
    values, is_bad = parse_numbers(column)
    bad = np.flatnonzero(is_bad)
    if len(bad):
        more = f", nor are {len(bad) - 1} more" if len(bad) > 1 else ""
        raise InputError(
            f"{path}: column {name!r} holds {column[int(bad[0])].as_py()!r} in row {bad[0] + 1} "
            f"(after the header), which is no number{more}; timestamps must be numbers, such as "
            "seconds since 1970"
        )
    return values
