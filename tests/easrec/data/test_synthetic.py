import numpy as np
import pytest

from easrec.data.sequences import leave_one_out
from easrec.data.synthetic import subsample, synthetic_interactions


def test_a_seed_gives_one_log():
    one = synthetic_interactions(80, 60, 12, seed=4)
    again = synthetic_interactions(80, 60, 12, seed=4)
    other = synthetic_interactions(80, 60, 12, seed=5)
    assert one.checksum == again.checksum != other.checksum
    assert one.items.tolist() == again.items.tolist()


def test_counts_and_order_are_as_promised():
    log = synthetic_interactions(2000, 300, 15, seed=0)
    assert (log.num_users, log.num_items) == (2000, 300)
    assert (log.items.min(), log.items.max()) == (1, 300)
    lengths = np.bincount(log.users)
    assert lengths.min() >= 5
    assert abs(lengths.mean() - 15) < 1
    assert (np.diff(log.users) >= 0).all()
    assert (np.diff(log.timestamps)[np.diff(log.users) == 0] >= 0).all()


def test_no_user_meets_an_item_twice():
    log = synthetic_interactions(300, 40, 15, seed=0)
    assert len(np.unique(log.users * 41 + log.items)) == len(log.items)
    assert leave_one_out(log).statistics["repeat_share"] == 0


def test_popularity_is_skewed_and_the_order_can_be_learned():
    log = synthetic_interactions(2000, 100, 15, seed=0)
    counts = np.sort(np.bincount(log.items, minlength=101)[1:])[::-1]
    assert counts[:10].mean() > 2 * counts[-50:].mean()
    # The three commonest followers of an item: far above 3 %, which an order by chance would give.
    same_user = np.diff(log.users) == 0
    pairs = np.zeros((101, 101))
    np.add.at(pairs, (log.items[:-1][same_user], log.items[1:][same_user]), 1)
    commonest = np.sort(pairs, axis=1)[:, -3:].sum() / pairs.sum()
    shuffled = np.zeros((101, 101))
    mixed = np.random.default_rng(0).permutation(log.items)
    np.add.at(shuffled, (mixed[:-1], mixed[1:]), 1)
    assert commonest > 0.45 > np.sort(shuffled, axis=1)[:, -3:].sum() / shuffled.sum() + 0.1


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"got num_users=3, num_items=20, mean_length=12"):
        synthetic_interactions(3, 20, 12, seed=0)


def test_subsample_keeps_whole_histories_under_their_own_ids():
    log = synthetic_interactions(200, 100, 10, seed=1)
    part = subsample(log, 30, seed=0)
    assert part.num_users == 30
    assert np.unique(part.users).tolist() == list(range(30))
    assert np.unique(part.items).tolist() == list(range(1, part.num_items + 1))
    for user, own_id in enumerate(part.user_ids):
        (whole,) = np.flatnonzero(log.user_ids == own_id)
        expected = log.item_ids[log.items[log.users == whole]]
        assert part.item_ids[part.items[part.users == user]].tolist() == expected.tolist()
        expected_times = log.timestamps[log.users == whole]
        assert part.timestamps[part.users == user].tolist() == expected_times.tolist()


def test_subsample_depends_on_its_seed():
    log = synthetic_interactions(200, 100, 10, seed=1)
    assert subsample(log, 30, seed=0).checksum == subsample(log, 30, seed=0).checksum
    assert subsample(log, 30, seed=0).checksum != subsample(log, 30, seed=1).checksum


def test_subsample_of_everyone_is_the_log_itself():
    log = synthetic_interactions(20, 50, 10, seed=1)
    assert subsample(log, 20, seed=0) is log
    with pytest.raises(ValueError, match="num_users must be at least 1, got 0"):
        subsample(log, 0, seed=0)
