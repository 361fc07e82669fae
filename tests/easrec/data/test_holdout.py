import numpy as np
import pytest

from easrec.data.batches import training_windows, validation_batches
from easrec.data.holdout import hold_out_last_targets
from easrec.data.interactions import load_interactions
from easrec.data.sequences import leave_one_out


@pytest.fixture
def data(tmp_path):
    """User 0 has items a..f, user 1 a..e, user 2 a..d: 3, 2 and 1 training targets."""
    rows = [f"{user},{item},{time}" for user in range(3) for time, item in enumerate("abcdef"[: 6 - user])]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    log = load_interactions(tmp_path / "log.csv")
    return leave_one_out(log), {name: int(np.flatnonzero(log.item_ids == name)[0]) for name in "abcdef"}


def test_the_last_training_target_is_asked_and_not_trained_on(data):
    split, item = data
    held = hold_out_last_targets(split)
    assert held.target_items("valid").tolist() == [item["d"], item["c"]]
    assert held.valid.rows.tolist() == [0, 1]
    # What is left: a -> b -> c of user 0, a -> b of user 1; user 2 keeps its only target, b.
    _, targets = training_windows(held, 5, seed=0, epoch=1)
    assert sorted(targets[targets > 0].tolist()) == sorted(item[name] for name in "bcbb")
    assert split.train_ends.tolist() == [4, 9, 13], "the split itself is left as it is"


def test_neither_validation_nor_test_items_can_be_reached(data):
    split, _ = data
    held = hold_out_last_targets(split)
    assert len(held.test.rows) == 0
    reached = set()
    item_ids, targets = training_windows(held, 5, seed=0, epoch=1)
    reached |= set(item_ids.ravel()) | set(targets.ravel())
    for batch in validation_batches(held, 5, 8, seed=0, epoch=1):
        reached |= set(batch.item_ids.ravel().tolist()) | set(batch.targets.ravel().tolist())
    last_two = {int(split.items[end]) for end in split.train_ends[:1]} | {
        int(split.items[end + 1]) for end in split.train_ends[:1]
    }
    assert not reached & last_two, "e and f of user 0 are nobody's training items"


def test_the_two_splits_are_told_apart(data):
    split, _ = data
    held = hold_out_last_targets(split)
    assert held.checksum != split.checksum
    assert held.checksum == hold_out_last_targets(split).checksum
