"""A log of who met which item when, as dense arrays in each user's order of time.

Legend: M interactions, U users (0..U-1), V items (1..V; 0 is padding).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from easrec.data.catalog import KNOWN_DATASETS, fetch
from easrec.data.log_files import FORMATS, Timestamps, read_log
from easrec.errors import InputError

ITEM_ORDER_SEED = 2402_00390
"""Seed of the permutation that numbers the items; fixed: the same log always gets the same ids."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """Interactions sorted by user, then timestamp; equal timestamps keep the order of the file."""

    name: str
    """Name of the data set."""
    users: npt.NDArray[np.int64]
    """Dense user of each interaction, 0..U-1, (M,), ascending."""
    items: npt.NDArray[np.int32]
    """Dense item of each interaction, 1..V, (M,)."""
    timestamps: Timestamps
    """When it happened, (M,), in the unit of the log; only the order is used."""
    user_ids: npt.NDArray[Any]
    """The log's own id of each user, (U,)."""
    item_ids: npt.NDArray[Any]
    """The log's own id of each item, (V + 1,); [0] stands for padding: -1, or "" among texts."""
    dropped: dict[str, int]
    """What was left out when it was loaded: "users", and their "interactions"."""
    checksum: str
    """sha256 of the content: users, items, their order and their own ids."""

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """V."""
        return len(self.item_ids) - 1


def load_interactions(
    path_or_name: str | Path,
    *,
    user_column: str = "user_id",
    item_column: str = "item_id",
    time_column: str = "timestamp",
    min_user_interactions: int = 3,
    cache_dir: Path | None = None,
) -> Interactions:
    """Read a data set known by name (fetched once), or a log file: .parquet, .csv or .inter.

    Ids may be texts or whole numbers. Dense item ids are a fixed permutation of the sorted own
    ids, so that they tell nothing of which came first.

    Args:
        path_or_name: one of `KNOWN_DATASETS`, or a file.
        user_column: name of the column of user ids; likewise the two below. In a .inter file,
            without the type that follows the colon.
        item_column: name of the column of item ids.
        time_column: name of the column of timestamps.
        min_user_interactions: users with fewer rows are dropped, and counted in `dropped`.
        cache_dir: where fetched data sets are kept; None: the user's cache directory.

    Raises:
        InputError: the data set, the file, its columns or its values cannot be used.
    """
    if min_user_interactions < 1:
        raise ValueError(f"min_user_interactions must be at least 1, got {min_user_interactions}")
    name, path = _locate(path_or_name, cache_dir)
    log = read_log(path, user_column=user_column, item_column=item_column, time_column=time_column)
    enough = np.bincount(log.users.codes) >= min_user_interactions
    if not enough.any():
        raise InputError(
            f"{path}: nobody is left, since none of the {len(enough)} users has "
            f"{min_user_interactions} interactions or more; give a longer log"
        )
    kept = enough[log.users.codes]
    users, items = log.users.only(kept), log.items.only(kept)
    timestamps = log.timestamps[kept]

    order = np.lexsort((timestamps, users.codes))  # stable: ties keep the order of the file
    numbers = item_numbers(len(items.values))
    dense_users, dense_items = users.codes[order], numbers[items.codes[order]]
    item_ids = np.full(len(numbers) + 1, "" if items.values.dtype == object else -1, object)
    item_ids = item_ids.astype(items.values.dtype)
    item_ids[numbers] = items.values
    return Interactions(
        name=name,
        users=dense_users,
        items=dense_items,
        timestamps=timestamps[order],
        user_ids=users.values,
        item_ids=item_ids,
        dropped={"users": int((~enough).sum()), "interactions": int((~kept).sum())},
        checksum=content_checksum(dense_users, dense_items, users.values, item_ids),
    )


def item_numbers(num_items: int) -> npt.NDArray[np.int32]:
    """The dense id of each of the sorted own item ids: a fixed permutation of 1..V, int32 (V,)."""
    generator = np.random.default_rng(ITEM_ORDER_SEED)
    return generator.permutation(num_items).astype(np.int32) + np.int32(1)


def content_checksum(
    users: npt.NDArray[np.int64],
    items: npt.NDArray[np.int32],
    user_ids: npt.NDArray[Any],
    item_ids: npt.NDArray[Any],
) -> str:
    """sha256 of the dense columns in their order and of the own ids behind them."""
    digest = hashlib.sha256()
    digest.update(np.ascontiguousarray(users, dtype="<i8").data)
    digest.update(np.ascontiguousarray(items, dtype="<i4").data)
    for own_ids in (user_ids, item_ids[1:]):
        digest.update(repr(own_ids.tolist()).encode())
    return digest.hexdigest()


def _locate(path_or_name: str | Path, cache_dir: Path | None) -> tuple[str, Path]:
    """The name of the data set and the file that holds it."""
    if isinstance(path_or_name, str) and path_or_name in KNOWN_DATASETS:
        return path_or_name, fetch(path_or_name, cache_dir)
    path = Path(path_or_name)
    looks_like_a_path = isinstance(path_or_name, Path) or path.suffix or len(path.parts) > 1
    if looks_like_a_path or path.exists():
        return path.stem, path
    raise InputError(
        f"unknown data set {path_or_name!r}; known are {', '.join(KNOWN_DATASETS)}; or give the "
        f"path of a file that ends in {', '.join(FORMATS)}"
    )
