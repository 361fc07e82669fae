"""What a user says of the data to a pipeline that trains. Imports nothing slow, since --help reads it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from easrec.errors import InputError

DEFAULT_DATASET = "ml-100k"


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which interactions, and how they are split."""

    dataset: str | None = None
    """Data set known by name; it is fetched once and kept in a cache directory, or read from the raw files
    that --data names. Left out: ml-100k, unless --data names a log of your own."""
    data: Path | None = None
    """A log of your own: .parquet, .csv or RecBole's .inter, one row per interaction. Beside --dataset: the
    raw files of that data set (archive, directory, or the file that holds the log)."""
    user_column: str = "user_id"
    """Column of your own log that holds the user."""
    item_column: str = "item_id"
    """Column of your own log that holds the item."""
    time_column: str = "timestamp"
    """Column of your own log that holds the time; any unit will do."""
    split: Literal["leave_one_out", "temporal"] = "leave_one_out"
    """leave_one_out: each user's last item is the test target, the last but one that of validation. temporal:
    two points of time for all users; what happens from them on is asked at validation and at test."""
    valid_share: float | None = None
    """Of --split temporal: share of all interactions between the two times. Left out: 0.1."""
    test_share: float | None = None
    """Of --split temporal: share of all interactions from the second time on. Left out: 0.1."""
    boundaries: tuple[float, float] | None = None
    """Of --split temporal: the two times themselves, in the unit of the log, instead of the shares."""
    asked: Literal["all", "first", "last"] | None = None
    """Of --split temporal: of each user's interactions in a period ask for all, or for the first or the last
    alone. Left out: all."""

    def check(self) -> None:
        """Refuse options that cannot be meant.

        Raises:
            InputError: names the option and its value.
        """
        of_temporal = ("valid_share", "test_share", "boundaries", "asked")
        given = [name for name in of_temporal if getattr(self, name) is not None]
        if given and self.split != "temporal":
            raise InputError(f"{option(given[0])} belongs to --split temporal; give that too")
        shares = [name for name in given if name.endswith("share")]
        if shares and self.boundaries is not None:
            raise InputError(f"give either --boundaries or {option(shares[0])}, not both")
        valid, test = self.shares
        if not (valid > 0 and test > 0 and valid + test < 1):
            raise InputError(
                "--valid-share and --test-share must be above 0 and below 1 together, got "
                f"{valid:g} and {test:g}"
            )
        if self.boundaries is not None:
            first, second = self.boundaries
            if not (first < second and math.isfinite(first) and math.isfinite(second)):
                raise InputError(f"--boundaries must be two ascending times, got {first:g} and {second:g}")

    @property
    def shares(self) -> tuple[float, float]:
        """The shares of validation and test in a temporal split."""
        return (
            0.1 if self.valid_share is None else self.valid_share,
            0.1 if self.test_share is None else self.test_share,
        )

    @property
    def data_name(self) -> str:
        """What the data set is called."""
        if self.dataset is not None:
            return self.dataset
        return DEFAULT_DATASET if self.data is None else self.data.stem


def option(name: str) -> str:
    """The command-line option of a field.

    >>> option("cpus_per_trial")
    '--cpus-per-trial'
    """
    return "--" + name.replace("_", "-")
