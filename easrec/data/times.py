"""Columns of times as numbers whose order is that of the times.

Legend: M interactions.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from easrec.data.logs import Timestamps

Bad = npt.NDArray[np.bool_]


def parse_numbers(column: Any) -> tuple[Timestamps, Bad]:
    """Numbers, or texts of numbers, in any unit; dates and times of Arrow become microseconds since 1970.

    Args:
        column: an Arrow column without nulls, (M,).

    Returns:
        int64 where all are whole numbers, else float64, (M,); and which of them are no finite numbers, (M,).
    """
    # Times of day and durations are numbers as they are.
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us"), safe=False)
    for number in (pa.int64(), pa.float64()):
        try:
            values: Timestamps = column.cast(number).to_numpy()
            break
        except pa.ArrowException:
            continue
    else:
        values = pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(dtype=np.float64)
    return values, ~np.isfinite(values)


def parse_dates(column: Any, date_format: str) -> tuple[Timestamps, Bad]:
    """Texts of dates, such as "2017-01-22" for "%Y-%m-%d", in UTC.

    Args:
        column: an Arrow column of texts without nulls, (M,).
        date_format: as `strptime` takes it; other texts, and days that no calendar has, are bad.

    Returns:
        Seconds since 1970, int64 (M,), 0 where it is bad; and which are bad, (M,).
    """
    dates = pd.to_datetime(column.to_pandas(), format=date_format, errors="coerce")
    bad = dates.isna().to_numpy()
    seconds = dates.to_numpy().astype("datetime64[s]").astype(np.int64)
    return np.where(bad, 0, seconds), bad
