"""The data of a sweep: its split, what its items are called, and on what terms it may be used."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from easrec.data.datasets import KNOWN_DATASETS
from easrec.data.feature_table import FeatureTable
from easrec.data.interactions import Interactions, load_interactions
from easrec.data.items import Items
from easrec.data.sequences import SplitData
from easrec.data.splits import split_interactions, temporal_split
from easrec.data.synthetic import subsample
from easrec.errors import InputError
from easrec.files import what_is_at
from sweeps.data_options import DEFAULT_DATASET, DataOptions
from sweeps.summary import counted

if TYPE_CHECKING:
    from sweeps.presets import Preset

ITEMS = "items.parquet"
"""What a sweep's directory and its MLflow run call the file of its items."""

_SUBSAMPLE_SEED = 0
_OWN_DATA = "the user's own data; no terms are recorded"


@dataclass(frozen=True, slots=True)
class SweepData:
    """What a sweep trains on, and what somebody who ships a network of it needs besides."""

    split: SplitData
    """What is trained on and asked."""
    items: Items
    """What the item ids stand for."""
    licence: str
    """Terms of use of the data set."""
    described: str
    """What there is, what was left out and how it is split, in a line or two."""
    features: FeatureTable | None = None
    """What is known of the items beside their ids, for those who asked for it."""


def load_data(
    options: DataOptions,
    preset: "Preset | None" = None,
    features: Callable[[Interactions], FeatureTable] | None = None,
) -> SweepData:
    """Load and split what the options name; see `load_interactions` and `temporal_split` for errors.

    Args:
        options: which data and which split.
        preset: may take some of the users alone.
        features: reads what is known of the items of a log; left out, nothing is read.
    """
    interactions = _interactions(options)
    known = KNOWN_DATASETS.get(options.dataset or (DEFAULT_DATASET if options.data is None else ""))
    if preset is not None and preset.num_users is not None:
        interactions = subsample(interactions, preset.num_users, seed=_SUBSAMPLE_SEED)
    split = split_of(options, interactions)
    return SweepData(
        split,
        Items.of(interactions, split),
        _OWN_DATA if known is None else known.licence,
        _described(options, interactions, split),
        None if features is None else features(interactions),
    )


def _interactions(options: DataOptions) -> Interactions:
    # --dataset may name a file too.
    path_or_name: str | Path = options.dataset or DEFAULT_DATASET
    raw = options.data
    if options.dataset is None and options.data is not None:
        path_or_name, raw = options.data, None
        if str(options.data) in KNOWN_DATASETS and what_is_at(options.data) == "nothing":
            raise InputError(f"--data {options.data} is no file; a data set known by name goes to --dataset")
    return load_interactions(
        path_or_name,
        raw=raw,
        user_column=options.user_column,
        item_column=options.item_column,
        time_column=options.time_column,
    )


def split_of(options: DataOptions, interactions: Interactions) -> SplitData:
    """The split that the options ask for; see `split_interactions` and `temporal_split` for errors."""
    if options.split != "temporal":
        return split_interactions(interactions, options.split)
    valid_share, test_share = options.shares
    return temporal_split(
        interactions,
        valid_share=valid_share,
        test_share=test_share,
        boundaries=options.boundaries,
        asked=options.asked or "all",
    )


def _described(options: DataOptions, interactions: Interactions, split: SplitData) -> str:
    statistics = split.statistics
    text = f"{split.name}: {split.num_users} users, {split.num_items} items, {len(split.items)} interactions"
    if dropped := int(statistics["dropped_users"]):
        text += f"; {counted(dropped, 'user')} with too few interactions dropped"
    if interactions.malformed.count:
        text += f"; {interactions.malformed}"
    if options.split == "temporal":
        text += (
            f"\nsplit at the times {statistics['valid_from']} and {statistics['test_from']}: "
            f"{len(split.valid.rows)} validation and {len(split.test.rows)} test questions; "
            f"{counted(int(statistics['cold_users']), 'user')} unknown to training"
        )
    return text
