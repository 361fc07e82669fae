"""Reading a log file: its three columns, checked, in the order of the file.

Legend: M interactions.
"""

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from easrec.errors import InputError

FORMATS = (".parquet", ".csv", ".inter")

# As int() would print it, so that texts such as "007" stay texts; 18 digits fit into int64.
_WHOLE_NUMBER = r"^(0|-?[1-9][0-9]{0,17})$"

Timestamps = npt.NDArray[np.int64] | npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ids:
    """A column of ids: `values[codes]` is the column."""

    codes: npt.NDArray[np.int64]
    """Rank of each row's id among the distinct ones, (M,)."""
    values: npt.NDArray[Any]
    """The distinct ids in ascending order: int64, or objects of type str."""

    def only(self, rows: npt.NDArray[np.bool_]) -> "Ids":
        """The ids of `rows`, a mask (M,), without the values that no longer occur."""
        codes = self.codes[rows]
        present = np.bincount(codes, minlength=len(self.values)) > 0
        return Ids((np.cumsum(present) - 1)[codes], self.values[present])


@dataclass(frozen=True, eq=False)
class Log:
    """The columns of a log, without nulls."""

    users: Ids
    items: Ids
    timestamps: Timestamps
    """Finite numbers, (M,)."""


def read_log(path: Path, *, user_column: str, item_column: str, time_column: str) -> Log:
    """Read three columns of a .parquet, .csv (comma) or .inter (tab, types in the header) file.

    Ids of a text format become numbers if all of the column are whole numbers; parquet keeps the
    type it states. Dates and times of parquet count as numbers.

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
            f"that ends in {', '.join(FORMATS)}"
        )
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; check the path")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; give a log with a header and rows")
    try:
        read = _read_parquet if path.suffix == ".parquet" else _read_text
        table = read(path, columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: cannot be read as {path.suffix} ({reason}); repair or convert the file"
        ) from error
    if table.num_rows == 0:
        raise InputError(f"{path}: the file has a header but no rows; give a log with rows")
    for name in columns.values():
        if nulls := table.column(name).null_count:
            raise InputError(
                f"{path}: column {name!r} is empty (null) in {nulls} of {table.num_rows} rows; "
                "fill these in or remove the rows"
            )
    return Log(
        users=_ids(path, user_column, table.column(user_column)),
        items=_ids(path, item_column, table.column(item_column)),
        timestamps=_timestamps(path, time_column, table.column(time_column)),
    )


def _read_parquet(path: Path, columns: Mapping[str, str]) -> Any:
    _check_columns(path, columns, pa.parquet.read_schema(path).names)
    return pa.parquet.read_table(path, columns=list(columns.values()))


def _read_text(path: Path, columns: Mapping[str, str]) -> Any:
    atomic = path.suffix == ".inter"
    delimiter, quote = ("\t", False) if atomic else (",", '"')
    with path.open(newline="", encoding="utf-8-sig") as lines:
        reader = (
            csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
            if atomic
            else csv.reader(lines, delimiter=delimiter)
        )
        header = next(reader, [])
    # The header of a .inter file states a type after each name, as in "user_id:token".
    found = [name.rsplit(":", 1)[0] for name in header] if atomic else header
    _check_columns(path, columns, found)
    user, item, time = (header[found.index(name)] for name in columns.values())
    # Texts throughout: type inference would make the id "007" a 7, and would stop at a bad
    # timestamp without telling its row.
    encoded = pa.dictionary(pa.int32(), pa.string())
    table = pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, quote_char=quote),
        convert_options=pa.csv.ConvertOptions(
            include_columns=[user, item, time],
            column_types={user: encoded, item: encoded, time: pa.string()},
            null_values=[""],
            strings_can_be_null=True,
        ),
    )
    return table.rename_columns(list(columns.values()))


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
            f"{', '.join(map(repr, found)) or 'none'}{closest}; say with {option} which one it is"
        )


def _ids(path: Path, name: str, column: Any) -> Ids:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    encoded = column.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    values, codes = encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if is_text and path.suffix != ".parquet":
        is_text = not pc.all(pc.match_substring_regex(values, _WHOLE_NUMBER)).as_py()
    if not is_text:
        try:
            values = values.cast(pa.int64())
        except pa.ArrowException as error:
            raise InputError(
                f"{path}: column {name!r} holds {values.type}; ids must be texts or whole numbers"
            ) from error
    # Sorting by value also merges equal entries, which a file's own dictionary may hold.
    distinct, ranks = np.unique(values.to_numpy(zero_copy_only=False), return_inverse=True)
    return Ids(ranks[codes], distinct).only(np.ones(len(codes), dtype=np.bool_))


def _timestamps(path: Path, name: str, column: Any) -> Timestamps:
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.timestamp("us"), safe=False)
    for number in (pa.int64(), pa.float64()):
        try:
            values: Timestamps = column.cast(number).to_numpy()
            break
        except pa.ArrowException:
            continue
    else:
        texts = column.to_pandas()
        values = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        more = f", nor are {len(bad) - 1} more" if len(bad) > 1 else ""
        raise InputError(
            f"{path}: column {name!r} holds {column[int(bad[0])].as_py()!r} in row {bad[0] + 1} "
            f"(after the header), which is no number{more}; timestamps must be numbers, such as "
            "seconds since 1970"
        )
    return values
