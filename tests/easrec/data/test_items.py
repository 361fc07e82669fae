from pathlib import Path

import numpy as np
import pytest

from easrec.data.interactions import load_interactions
from easrec.data.items import Items
from easrec.data.sequences import leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError


@pytest.mark.parametrize("prefix", ["", "i"])
def test_own_ids_and_counts_come_back(prefix: str, tmp_path: Path) -> None:
    rows = [f"u{user},{prefix}{item},{time}" for user in range(3) for time, item in enumerate((7, 3, 9, 3))]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    log = load_interactions(tmp_path / "log.csv")
    items = Items.of(log, leave_one_out(log))
    items.save(tmp_path / "items.parquet")
    again = Items.load(tmp_path / "items.parquet")
    assert again.are_texts == bool(prefix)
    assert again.own_ids.tolist() == items.own_ids.tolist() == log.item_ids.tolist()
    # Of 7, 3, 9, 3 the first two are training.
    trained = {str(again.own_ids[i]): int(again.training_counts[i]) for i in range(1, 4)}
    assert trained == {f"{prefix}7": 3, f"{prefix}3": 3, f"{prefix}9": 0}


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file of items"):
        Items.load(tmp_path / "nothing.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(InputError, match="is no file of items"):
        Items.load(tmp_path / "text.parquet")
    log = synthetic_interactions(20, 30, 8, seed=0)
    items = Items.of(log, leave_one_out(log))
    with pytest.raises(ValueError, match=r"must be \(V \+ 1,\)"):
        Items(items.own_ids, np.zeros(3, dtype=np.int64))
