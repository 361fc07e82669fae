"""The data of a sweep: its split, what its items are called, and on what terms it may be used."""

from dataclasses import dataclass

from easrec.data.catalog import KNOWN_DATASETS
from easrec.data.interactions import load_interactions
from easrec.data.items import Items
from easrec.data.sequences import SplitData, leave_one_out
from easrec.data.synthetic import subsample
from sweeps.config import SweepConfig
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


def load_data(config: SweepConfig, preset: Preset) -> SweepData:
    """The data of a sweep; see `load_interactions` and `leave_one_out` for errors."""
    if config.data is None:
        interactions = load_interactions(config.dataset)
        # --dataset may name a file too.
        known = KNOWN_DATASETS.get(config.dataset)
        licence = _OWN_DATA if known is None else known.licence
    else:
        interactions = load_interactions(
            config.data,
            user_column=config.user_column,
            item_column=config.item_column,
            time_column=config.time_column,
        )
        licence = _OWN_DATA
    if preset.num_users is not None:
        interactions = subsample(interactions, preset.num_users, seed=_SUBSAMPLE_SEED)
    split = leave_one_out(interactions)
    return SweepData(split, Items.of(interactions, split), licence)
