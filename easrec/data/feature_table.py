"""The values of items as a network looks them up: one table for one feature, or for several together.

Legend: V items (ids 1..V; 0 is padding), A distinct values (1..A; 0 is none), W values of one item.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from easrec.data.features import ItemFeatures, load_item_features
from easrec.data.interactions import Interactions
from easrec.data.sequences import Int64s
from easrec.errors import InputError

PREFERRED = ("genres", "tags", "categories", "attributes", "attribute_ids")
"""Names of features that say what an item is, the best known first."""


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """The numbered values of each item."""

    name: str
    """Name of the feature, or of all features with + between."""
    values: Int64s
    """Numbers of values, int64 (V + 1, W): those of an item first, then zeros; row 0 is padding."""
    num_values: int
    """A."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] < 1 or self.values.dtype != np.int64:
            raise ValueError(f"values must be int64 (V + 1, W), got {self.values.dtype} {self.values.shape}")
        if not ((self.values >= 0) & (self.values <= self.num_values)).all():
            raise ValueError(f"values must lie in 0..{self.num_values}")
        present = self.values > 0
        if present[0].any() or (present[:, 1:] & ~present[:, :-1]).any():
            raise ValueError("padding has values, or an item has zeros before its values")

    @property
    def num_items(self) -> int:
        """V."""
        return len(self.values) - 1

    @property
    def described_share(self) -> float:
        """Share of the items that have a value at all, 0 to 1."""
        return float((self.values[1:, 0] > 0).mean())

    @property
    def checksum(self) -> str:
        """sha256 of the content."""
        digest = hashlib.sha256(f"{self.name} {self.num_values} {self.values.shape}".encode())
        digest.update(np.ascontiguousarray(self.values, dtype="<i8").data)
        return digest.hexdigest()


def feature_table(
    features: Mapping[str, ItemFeatures], *, source: str, names: Sequence[str] | None = None
) -> FeatureTable:
    """The table of some features.

    Args:
        features: those of one data set, by name.
        source: what they were read from, for messages.
        names: which of them; None: the only one, or the first of `PREFERRED` that is there.

    Raises:
        InputError: there is no such feature, none to prefer, or no item has a value of it.
    """
    names = _chosen(features, source) if names is None else tuple(names)
    if unknown := [name for name in names if name not in features]:
        raise InputError(
            f"{source}: items have no feature {unknown[0]!r}; they have {', '.join(features) or 'none'}"
        )
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"{source}: give each feature once and at least one, got {', '.join(names) or 'none'}"
        )
    blocks, num_values = [], 0
    for name in names:
        numbers = features[name].padded()
        blocks.append(np.where(numbers > 0, numbers + num_values, 0))
        num_values += features[name].num_values
    joined = np.concatenate(blocks, axis=1)
    # Values first, each feature's in their order: where several features meet there are gaps.
    joined = np.take_along_axis(joined, np.argsort(joined == 0, axis=1, kind="stable"), axis=1)
    width = max(1, int((joined > 0).sum(axis=1).max()))
    table = FeatureTable("+".join(names), np.ascontiguousarray(joined[:, :width]), num_values)
    if table.described_share == 0:
        raise InputError(
            f"{source}: no item of the log has a value of {table.name!r}; check that both have the same item "
            "ids"
        )
    return table


def load_feature_table(
    path_or_name: str | Path,
    interactions: Interactions,
    *,
    names: Sequence[str] | None = None,
    raw: str | Path | None = None,
    cache_dir: Path | None = None,
    item_column: str = "item_id",
) -> FeatureTable:
    """The table of the items of a log; other arguments as of `load_item_features`.

    Raises:
        InputError: the data set has no features, not these, or they cannot be read.
    """
    features = load_item_features(
        path_or_name, interactions, raw=raw, cache_dir=cache_dir, item_column=item_column
    )
    return feature_table(features, source=str(path_or_name), names=names)


def _chosen(features: Mapping[str, ItemFeatures], source: str) -> tuple[str, ...]:
    if not features:
        raise InputError(
            f"{source}: nothing is said of the items but their ids; a network that reads features needs a "
            "file of items with a column of values"
        )
    if len(features) == 1:
        return tuple(features)
    for name in PREFERRED:
        if name in features:
            return (name,)
    raise InputError(
        f"{source}: items have the features {', '.join(features)}; say which of them a network shall read"
    )
