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
from easrec.data.datasets import AS_IT_IS, Recipe
from easrec.data.filtering import Duplicates, core_rows, distinct_rows, time_order
from easrec.data.log_files import FORMATS, OnMalformed, read_log
from easrec.data.logs import NOTHING_MALFORMED, Ids, Log, Malformed, Timestamps
from easrec.data.readers.raw_files import RawFiles
from easrec.data.readers.reader import Reader
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
    """What was left out when it was loaded: "users" with too few interactions, and the "interactions" of
    those; with a minimum per item, "items" too; "duplicates", unless they are kept."""
    checksum: str
    """sha256 of the content: users, items, their order and their own ids."""
    malformed: Malformed = NOTHING_MALFORMED
    """Lines of the raw file that were left out since they hold no interaction."""

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
    raw: str | Path | None = None,
    duplicates: Duplicates | None = None,
    k_core: int | None = None,
    malformed: OnMalformed = "refuse",
) -> Interactions:
    """Read a data set known by name, or a log file: .parquet, .csv or .inter.

    Ids may be texts or whole numbers. Dense item ids are a fixed permutation of the sorted own
    ids, so that they tell nothing of which came first.

    Args:
        path_or_name: one of `KNOWN_DATASETS`, or a file.
        user_column: name of the column of user ids in a log file; likewise the two below. In a .inter file,
            without the type that follows the colon.
        item_column: name of the column of item ids.
        time_column: name of the column of timestamps.
        min_user_interactions: users with fewer rows are dropped, and counted in `dropped`.
        cache_dir: where fetched data sets are kept; None: the user's cache directory.
        raw: where the raw files of the data set known by name are: its archive as it was downloaded, a
            directory with the files, or the file that holds the log. None: in the cache, fetched once.
        duplicates: of a user's interactions with the same item, "keep" all, or the "first" or the "last" one.
            None: what the recipe of a data set known by name says; "keep" in a log file.
        k_core: the fewest interactions of each user and each item; both are dropped, again and again, until
            all have as many. 0: no minimum for items. None: as the recipe says; 0 in a log file.
        malformed: of a log file, "refuse" it if a line cannot be used, or "skip" such lines and count them in
            `malformed`. Raw files of data sets known by name are always read in the second way.

    Raises:
        InputError: the data set, the file, its columns or its values cannot be used.
    """
    if min_user_interactions < 1:
        raise ValueError(f"min_user_interactions must be at least 1, got {min_user_interactions}")
    if k_core is not None and k_core < 0:
        raise ValueError(f"k_core must be at least 0, got {k_core}")
    columns = {"user_column": user_column, "item_column": item_column, "time_column": time_column}
    place = _locate(path_or_name, cache_dir, raw)
    log = place.read(columns, malformed)
    recipe = place.recipe
    return _prepare(
        log,
        place,
        duplicates=recipe.duplicates if duplicates is None else duplicates,
        min_per_user=max(min_user_interactions, recipe.k_core if k_core is None else k_core),
        min_per_item=max(1, recipe.k_core if k_core is None else k_core),
    )


def _prepare(
    log: Log, place: "_Place", *, duplicates: Duplicates, min_per_user: int, min_per_item: int
) -> Interactions:
    order = time_order(log.users.codes, log.timestamps)
    users, items = (Ids(ids.codes[order], ids.values) for ids in (log.users, log.items))
    dropped: dict[str, int] = {}
    kept = distinct_rows(users.codes, items.codes, duplicates)
    if duplicates != "keep":
        dropped["duplicates"] = int((~kept).sum())
        users, items, order = users.only(kept), items.only(kept), order[kept]
    enough = core_rows(users.codes, items.codes, min_per_user=min_per_user, min_per_item=min_per_item)
    if not enough.any():
        raise _nobody_left(place, users, items, min_per_user=min_per_user, min_per_item=min_per_item)
    kept_users, kept_items = users.only(enough), items.only(enough)
    dropped |= {
        "users": len(users.values) - len(kept_users.values),
        "interactions": int((~enough).sum()),
    }
    if min_per_item > 1:
        dropped["items"] = len(items.values) - len(kept_items.values)
    numbers = item_numbers(len(kept_items.values))
    dense_users, dense_items = kept_users.codes.astype(np.int64), numbers[kept_items.codes]
    is_text = kept_items.values.dtype == object
    item_ids = np.full(
        len(numbers) + 1, "" if is_text else -1, object if is_text else kept_items.values.dtype
    )
    item_ids[numbers] = kept_items.values
    return Interactions(
        name=place.name,
        users=dense_users,
        items=dense_items,
        timestamps=log.timestamps[order if enough.all() else order[enough]],
        user_ids=kept_users.values,
        item_ids=item_ids,
        dropped=dropped,
        checksum=content_checksum(dense_users, dense_items, kept_users.values, item_ids),
        malformed=log.malformed,
    )


def _nobody_left(
    place: "_Place", users: Ids, items: Ids, *, min_per_user: int, min_per_item: int
) -> InputError:
    if min_per_item > 1:
        return InputError(
            f"{place.path}: nobody is left of {len(users.values)} users and {len(items.values)} items, since "
            f"no group of them has {min_per_user} interactions per user and {min_per_item} per item within "
            "itself; ask for a smaller k-core or give a longer log"
        )
    return InputError(
        f"{place.path}: nobody is left, since none of the {len(users.values)} users has "
        f"{min_per_user} interactions or more; give a longer log"
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


@dataclass(frozen=True)
class _Place:
    """Where a log is and what is known of it."""

    name: str
    path: Path
    recipe: Recipe = AS_IT_IS
    reader: Reader | None = None

    def read(self, columns: dict[str, str], malformed: OnMalformed) -> Log:
        if self.reader is None:
            return read_log(self.path, **columns, malformed=malformed)
        return self.reader.read_log(RawFiles.at(self.path))


def _locate(path_or_name: str | Path, cache_dir: Path | None, raw: str | Path | None) -> _Place:
    if isinstance(path_or_name, str) and path_or_name in KNOWN_DATASETS:
        dataset = KNOWN_DATASETS[path_or_name]
        path = fetch(path_or_name, cache_dir) if raw is None else Path(raw)
        name = dataset.name
        if dataset.reader and dataset.reader.part_of:
            name += f"-{dataset.reader.part_of(RawFiles.at(path))}"
        return _Place(name, path, dataset.recipe, dataset.reader)
    if raw is not None:
        raise InputError(
            f"{path_or_name!r} is no data set known by name, which raw files ({raw}) belong to; known are "
            f"{', '.join(KNOWN_DATASETS)}"
        )
    path = Path(path_or_name)
    looks_like_a_path = isinstance(path_or_name, Path) or path.suffix or len(path.parts) > 1
    if looks_like_a_path or path.exists():
        return _Place(path.stem, path)
    raise InputError(
        f"unknown data set {path_or_name!r}; known are {', '.join(KNOWN_DATASETS)}; or give the "
        f"path of a file that ends in {', '.join(FORMATS)}"
    )
