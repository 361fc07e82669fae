"""Per-user sequences, split into training history, validation and test questions.

Legend: M interactions, U user rows, Q questions of a split, B questions asked for, N positions,
V items (ids 1..V; 0 is padding).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from easrec.data.interactions import Interactions
from easrec.errors import InputError

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Split = Literal["valid", "test"]

MIN_INTERACTIONS = 3
"""Leave-one-out needs a training item, a validation item and a test item."""

REPEATS_FROM_SHARE = 0.01
"""A data set with a larger share of repeated validation targets counts as one with repeats."""


@dataclass(frozen=True, eq=False)
class Targets:
    """The questions of a split: question i asks user row `rows[i]` for `items[positions[i]]`.

    The history that may be used to answer it is `items[starts[rows[i]]:positions[i]]`. A row may
    have any number of questions, or none.
    """

    rows: Int64s
    """User rows, (Q,)."""
    positions: Int64s
    """Positions of the target items in `SplitData.items`, (Q,)."""


@dataclass(frozen=True, eq=False)
class SplitData:
    """Sequences of all users, with what may be trained on and what is asked.

    The arrays may be read-only views of shared memory; nothing here writes into them.
    """

    name: str
    """Name of the data set."""
    checksum: str
    """sha256 that identifies the log and how it was split."""
    num_items: int
    """V: item ids are 1..V."""
    items: Int32s
    """Item ids of all interactions, (M,): row after row, each from old to new, with no gaps."""
    starts: Int64s
    """Where each row begins in `items`, (U,); a row ends where the next begins."""
    train_ends: Int64s
    """The training history of row u is `items[starts[u]:train_ends[u]]`, (U,)."""
    valid: Targets
    """Validation questions."""
    test: Targets
    """Test questions."""
    statistics: dict[str, float | int]
    """Counts and shares of `describe_split`, which describe the data set and its split."""

    @property
    def num_users(self) -> int:
        """Number of user rows."""
        return len(self.starts)

    @property
    def has_repeats(self) -> bool:
        """Whether over 1 % of the validation targets are already in their own history."""
        return self.statistics["repeat_share"] > REPEATS_FROM_SHARE

    def targets(self, split: Split) -> Targets:
        """The questions of `split`."""
        if split not in ("valid", "test"):
            raise ValueError(f"split must be 'valid' or 'test', got {split!r}")
        return self.valid if split == "valid" else self.test

    def target_items(self, split: Split) -> Int64s:
        """The item each question of `split` asks for, int64 (Q,)."""
        return self.items[self.targets(split).positions].astype(np.int64)

    def histories(
        self, split: Split, index: npt.NDArray[np.integer[Any]], max_length: int
    ) -> tuple[Int64s, Int64s]:
        """The last `max_length` items before each of the questions `index` of `split`.

        Returns:
            Item ids, int64 (B, N), left-aligned, zeros on the right; real lengths, int64 (B,).
        """
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        questions = self.targets(split)
        ends = questions.positions[index]
        begins = np.maximum(self.starts[questions.rows[index]], ends - max_length)
        return gather_spans(self.items, begins, ends, max_length).astype(np.int64), ends - begins

    def training_counts(self) -> Int64s:
        """How often each item occurs in training, int64 (V + 1,); padding has 0."""
        in_training = np.arange(len(self.items)) < np.repeat(self.train_ends, self._row_lengths())
        return np.bincount(self.items[in_training], minlength=self.num_items + 1)

    def to_arrays(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """The arrays by name, to be shared without a copy, and the rest as JSON-able values."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "items": self.items,
            "starts": self.starts,
            "train_ends": self.train_ends,
            "valid_rows": self.valid.rows,
            "valid_positions": self.valid.positions,
            "test_rows": self.test.rows,
            "test_positions": self.test.positions,
        }
        rest = {
            "name": self.name,
            "checksum": self.checksum,
            "num_items": self.num_items,
            "statistics": dict(self.statistics),
        }
        return arrays, rest

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], rest: Mapping[str, Any]) -> "SplitData":
        """The split data that `to_arrays` took apart, over the same arrays."""
        return cls(
            items=arrays["items"],
            starts=arrays["starts"],
            train_ends=arrays["train_ends"],
            valid=Targets(arrays["valid_rows"], arrays["valid_positions"]),
            test=Targets(arrays["test_rows"], arrays["test_positions"]),
            name=rest["name"],
            checksum=rest["checksum"],
            num_items=rest["num_items"],
            statistics=dict(rest["statistics"]),
        )

    def _row_lengths(self) -> Int64s:
        return np.diff(self.starts, append=len(self.items))


def gather_spans(items: Int32s, begins: Int64s, ends: Int64s, width: int) -> Int32s:
    """The spans `items[begins[i]:ends[i]]`, none longer than `width`, int32 (B, width), padded."""
    lengths = ends - begins
    padded = np.zeros((len(begins), width), dtype=np.int32)
    # Only the real elements are read: most histories are much shorter than the window.
    steps = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    padded[np.arange(width) < lengths[:, None]] = items[np.repeat(begins, lengths) + steps]
    return padded


def leave_one_out(interactions: Interactions) -> SplitData:
    """Each user's last item is the test target, the last but one the validation target.

    The rest is training history; at test time the validation item belongs to the history. Users with
    fewer than three interactions are dropped and counted in the statistics. The split is by each
    user's own order, so one user's training may lie after another's test in time.

    Raises:
        InputError: no user has three interactions.
    """
    lengths = np.bincount(interactions.users, minlength=interactions.num_users)
    kept = lengths >= MIN_INTERACTIONS
    if not kept.any():
        raise InputError(
            f"data set {interactions.name!r} has no user with at least {MIN_INTERACTIONS} "
            "interactions, which leave-one-out needs; give a longer log"
        )
    items = interactions.items if kept.all() else interactions.items[kept[interactions.users]]
    ends = np.cumsum(lengths[kept])
    rows = np.arange(len(ends))
    parts = SplitData(
        name=interactions.name,
        checksum=hashlib.sha256(f"leave_one_out {interactions.checksum}".encode()).hexdigest(),
        num_items=interactions.num_items,
        items=items,
        starts=ends - lengths[kept],
        train_ends=ends - 2,
        valid=Targets(rows, ends - 2),
        test=Targets(rows, ends - 1),
        statistics={},
    )
    dropped = interactions.dropped.get("users", 0) + int((~kept).sum())
    return replace(parts, statistics={**describe_split(parts), "dropped_users": dropped})


def describe_split(data: SplitData) -> dict[str, float | int]:
    """What a split holds: counts, and shares of its questions (0 to 1).

    `cold_valid_share` and `cold_test_share`: questions whose target never occurs in training.
    `repeat_share`: validation questions whose target is already in their history.
    """
    trained = data.training_counts() > 0
    cold = {f"cold_{split}_share": _share(~trained[data.target_items(split)]) for split in ("valid", "test")}
    rows = np.repeat(np.arange(data.num_users), data._row_lengths())
    # An interaction is a repeat if the same row had the item before; hashing avoids a sort.
    repeated = pd.Series(rows * (data.num_items + 1) + data.items).duplicated(keep="first").to_numpy()
    return {
        "users": data.num_users,
        "items": data.num_items,
        "interactions": len(data.items),
        "mean_length": len(data.items) / max(data.num_users, 1),
        "training_targets": int(np.maximum(data.train_ends - data.starts - 1, 0).sum()),
        **cold,
        "repeat_share": _share(repeated[data.valid.positions]),
    }


def _share(flags: npt.NDArray[np.bool_]) -> float:
    return float(flags.mean()) if len(flags) else 0.0
