"""What is known of items beside their ids: genres, tags, categories; an item may have several or none.

Legend: V items (ids 1..V; 0 is padding), A distinct values, W values of one item.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from easrec.data.catalog import KNOWN_DATASETS, fetch_items
from easrec.data.interactions import Interactions
from easrec.data.logs import Int32s
from easrec.data.readers.raw_files import RawFiles
from easrec.data.readers.reader import RawItems
from easrec.data.readers.recbole import read_item_file
from easrec.data.sequences import Int64s, gather_spans
from easrec.errors import InputError

ITEM_FORMATS = (".parquet", ".item")


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """One feature of the items 1..V: item i has the values `ids[starts[i]:starts[i + 1]]`."""

    name: str
    """Name of the feature, such as "genres"."""
    values: npt.NDArray[Any]
    """The distinct values as texts, in ascending order, (A + 1,); [0] is "" and stands for padding."""
    starts: Int64s
    """Where the values of each item begin in `ids`, int64 (V + 2,); those of 0 are none."""
    ids: Int32s
    """Numbers of values, 1..A, each once per item."""

    @property
    def num_values(self) -> int:
        """A."""
        return len(self.values) - 1

    @property
    def num_items(self) -> int:
        """V."""
        return len(self.starts) - 2

    @property
    def counts(self) -> Int64s:
        """How many values each item has, int64 (V + 1,)."""
        return np.diff(self.starts)

    def of(self, item: int) -> list[str]:
        """The values of an item, in the order of the file."""
        found: list[str] = self.values[self.ids[self.starts[item] : self.starts[item + 1]]].tolist()
        return found

    def padded(self, max_values: int | None = None) -> Int64s:
        """The numbers of the first values of each item, int64 (V + 1, W), zeros on the right.

        Args:
            max_values: W; None: as many as the item with the most has, but at least one.
        """
        if max_values is not None and max_values < 1:
            raise ValueError(f"max_values must be at least 1, got {max_values}")
        width = max(int(self.counts.max()), 1) if max_values is None else max_values
        begins = self.starts[:-1]
        ends = np.minimum(self.starts[1:], begins + width)
        return gather_spans(self.ids, begins, ends, width).astype(np.int64)


def load_item_features(
    path_or_name: str | Path,
    interactions: Interactions,
    *,
    raw: str | Path | None = None,
    cache_dir: Path | None = None,
    item_column: str = "item_id",
) -> dict[str, ItemFeatures]:
    """The features of the items of a log, by name.

    Args:
        path_or_name: what the log was loaded from: a data set known by name, or a .inter file with a .item
            file beside it. Or a file of items: .item, or .parquet with the own ids and a column per feature,
            whose values are texts, whole numbers or lists of them.
        interactions: the log, whose items the features are numbered as.
        raw: as in `load_interactions`.
        cache_dir: as in `load_interactions`.
        item_column: name of the column of own ids in a file of items.

    Returns:
        The features; an item of which nothing is said has no values. What was malformed is left out.

    Raises:
        InputError: nothing is known of the items, or the file cannot be used.
    """
    items = read_items(path_or_name, raw=raw, cache_dir=cache_dir, item_column=item_column)
    return align_features(items, interactions)


def read_items(
    path_or_name: str | Path,
    *,
    raw: str | Path | None = None,
    cache_dir: Path | None = None,
    item_column: str = "item_id",
) -> RawItems:
    """What a data set or a file says of all its items; arguments and errors as `load_item_features`."""
    if isinstance(path_or_name, str) and path_or_name in KNOWN_DATASETS:
        reader = KNOWN_DATASETS[path_or_name].reader
        if reader is None or reader.read_items is None:
            raise InputError(f"data set {path_or_name!r} says nothing of its items but their ids")
        return reader.read_items(RawFiles.at(fetch_items(path_or_name, cache_dir) if raw is None else raw))
    path = Path(path_or_name)
    if path.suffix == ".inter":
        path = path.with_suffix(".item")
    if path.suffix not in ITEM_FORMATS:
        raise InputError(
            f"{path}: the ending {path.suffix!r} names no format of items; give a data set known by name, or "
            f"a file that ends in {' or '.join(ITEM_FORMATS)}"
        )
    if not path.is_file():
        raise InputError(f"{path}: there is no such file, which would describe the items")
    if path.suffix == ".item":
        return read_item_file(RawFiles.at(path), path.name, item_column=item_column)
    return _read_parquet(path, item_column)


def align_features(items: RawItems, interactions: Interactions) -> dict[str, ItemFeatures]:
    """The features of the items of a log, numbered as the log numbers them."""
    own_ids = pd.Index([str(own) for own in interactions.item_ids[1:].tolist()])
    rows = pd.Index(items.item_ids.to_pylist()).get_indexer(own_ids)
    taken = pa.array(np.maximum(rows, 0), mask=rows < 0)
    return {name: _feature(name, lists.take(taken)) for name, lists in items.features.items()}


def _feature(name: str, lists: Any) -> ItemFeatures:
    """A feature from one list of texts, or null, for each item 1..V."""
    texts, parents = pc.list_flatten(lists), pc.list_parent_indices(lists).to_numpy()
    if texts.null_count:
        parents, texts = parents[texts.is_valid().to_numpy(zero_copy_only=False)], texts.drop_null()
    encoded = texts.dictionary_encode()
    values, ranks = np.unique(encoded.dictionary.to_numpy(zero_copy_only=False), return_inverse=True)
    ids = ranks[encoded.indices.to_numpy()] + 1
    again = pd.Series(parents * (len(values) + 1) + ids).duplicated().to_numpy()
    starts = np.zeros(len(lists) + 2, dtype=np.int64)
    np.cumsum(np.bincount(parents[~again], minlength=len(lists)), out=starts[2:])
    return ItemFeatures(
        name=name,
        values=np.concatenate((np.array([""], dtype=object), values.astype(object))),
        starts=starts,
        ids=ids[~again].astype(np.int32),
    )


def _read_parquet(path: Path, item_column: str) -> RawItems:
    try:
        table = pa.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as .parquet ({reason}); repair the file") from error
    if table.column_names.count(item_column) != 1:
        raise InputError(
            f"{path}: there is no column {item_column!r} with the ids of the items; found are "
            f"{', '.join(map(repr, table.column_names)) or 'none'}"
        )
    own_ids = table.column(item_column).cast(pa.string()).combine_chunks()
    if own_ids.null_count or len(own_ids.unique()) < len(own_ids):
        raise InputError(f"{path}: column {item_column!r} must hold each item once; repair the file")
    columns = ((name, table.column(name).combine_chunks()) for name in table.column_names)
    lists = {name: _as_lists(column) for name, column in columns if name != item_column}
    return RawItems(own_ids, {name: column for name, column in lists.items() if column is not None})


def _as_lists(column: Any) -> Any:
    """A column of texts, whole numbers or lists of them as lists of texts; None if it holds anything else."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    kind = column.type.value_type if is_list else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        return None
    if is_list:
        return column.cast(pa.list_(pa.string()))
    lengths = column.is_valid().cast(pa.int32()).to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), column.drop_null().cast(pa.string()))
