"""A log and what is known of its items as files that RecBole reads, so that both sides have the same."""

from pathlib import Path

import pandas as pd

from easrec.data.feature_table import FeatureTable
from easrec.data.interactions import Interactions


def write_inter(interactions: Interactions, folder: Path, name: str) -> None:
    """Write `folder/name/name.inter`; the time of an interaction is its place in the user's history.

    RecBole keeps times as float32, in which close ones are equal; places stay apart.
    """
    path = folder / name / f"{name}.inter"
    path.parent.mkdir(parents=True)
    frame = pd.DataFrame(
        {
            "user_id:token": interactions.user_ids[interactions.users],
            "item_id:token": interactions.item_ids[interactions.items],
        }
    )
    frame["timestamp:float"] = frame.groupby("user_id:token").cumcount()
    frame.to_csv(path, sep="\t", index=False)


def write_items(features: FeatureTable, interactions: Interactions, folder: Path, name: str) -> None:
    """Write `folder/name/name.item`, beside the log: the numbers of each item's values."""
    rows = (" ".join(map(str, row[row > 0])) for row in features.values[1:])
    frame = pd.DataFrame({"item_id:token": interactions.item_ids[1:], "features:token_seq": rows})
    frame.to_csv(folder / name / f"{name}.item", sep="\t", index=False)
