"""Interactions as a file that RecBole reads, so that both sides have the same users and items."""

from pathlib import Path

import pandas as pd

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
