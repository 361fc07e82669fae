import json

import numpy as np
import pytest

from easrec.data.interactions import Interactions, content_checksum
from easrec.data.sequences import SplitData, Targets, describe_split, leave_one_out
from easrec.errors import InputError


def log_of(histories: list[list[int]], num_items: int | None = None) -> Interactions:
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    items = np.array([item for history in histories for item in history], dtype=np.int32)
    user_ids = np.arange(len(histories))
    item_ids = np.arange(-1, num_items or int(items.max()))
    return Interactions(
        name="by hand",
        users=users,
        items=items,
        timestamps=np.arange(len(items)),
        user_ids=user_ids,
        item_ids=item_ids,
        dropped={"users": 0, "interactions": 0},
        checksum=content_checksum(users, items, user_ids, item_ids),
    )


def many_targets_per_user() -> SplitData:
    """Two users; user 0 has two validation questions, apart from one another, and two for test."""
    return SplitData(
        name="by hand",
        checksum="none",
        num_items=9,
        items=np.array([1, 2, 3, 4, 5, 6, 7, 8, 9], dtype=np.int32),
        starts=np.array([0, 6]),
        train_ends=np.array([2, 8]),
        valid=Targets(np.array([0, 0]), np.array([2, 4])),
        test=Targets(np.array([0, 1, 0]), np.array([3, 8, 5])),
        statistics={},
    )


def test_leave_one_out_of_hand_made_histories():
    data = leave_one_out(log_of([[4, 2, 7], [5, 1, 2, 3, 6]]))
    assert (data.num_users, data.num_items) == (2, 7)
    training = [
        data.items[start:end].tolist() for start, end in zip(data.starts, data.train_ends, strict=True)
    ]
    assert training == [[4], [5, 1, 2]]
    assert data.target_items("valid").tolist() == [2, 3]
    assert data.target_items("test").tolist() == [7, 6]


def test_at_test_time_the_validation_item_belongs_to_the_history():
    data = leave_one_out(log_of([[4, 2, 7], [5, 1, 2, 3, 6]]))
    everyone = np.arange(2)
    item_ids, lengths = data.histories("valid", everyone, 4)
    assert item_ids.tolist() == [[4, 0, 0, 0], [5, 1, 2, 0]]
    assert lengths.tolist() == [1, 3]
    item_ids, lengths = data.histories("test", everyone, 4)
    assert item_ids.tolist() == [[4, 2, 0, 0], [5, 1, 2, 3]]
    assert lengths.tolist() == [2, 4]


def test_a_long_history_keeps_its_last_items():
    data = leave_one_out(log_of([[1, 2, 3, 4, 5, 6], [1, 2, 3]]))
    item_ids, lengths = data.histories("test", np.array([1, 0]), 3)
    assert item_ids.tolist() == [[1, 2, 0], [3, 4, 5]]
    assert lengths.tolist() == [2, 3]
    assert item_ids.dtype == lengths.dtype == np.int64


def test_users_under_three_interactions_are_dropped_and_counted():
    data = leave_one_out(log_of([[1, 2], [3, 4, 5], [6]]))
    assert data.num_users == 1
    assert data.items.tolist() == [3, 4, 5]
    assert data.statistics["dropped_users"] == 2


def test_nobody_with_three_interactions_is_an_input_error():
    with pytest.raises(InputError, match=r"'by hand' has no user with at least 3 interactions"):
        leave_one_out(log_of([[1, 2], [3]]))


def test_training_counts_leave_out_validation_and_test():
    data = leave_one_out(log_of([[1, 2, 1, 3, 4], [2, 5, 1]], num_items=6))
    assert data.training_counts().tolist() == [0, 2, 2, 0, 0, 0, 0]


def test_statistics_of_a_hand_made_log():
    # User 0 is asked for 3 (validation; unseen in training) and for 4 (test; unseen in training).
    # User 1 is asked for 2, which it has had and user 0 trained on, and for 1.
    statistics = leave_one_out(log_of([[1, 2, 1, 3, 4], [2, 5, 2, 1]])).statistics
    assert statistics == {
        "users": 2,
        "items": 5,
        "interactions": 9,
        "mean_length": 9 / 2,
        "training_targets": 2 + 1,
        "cold_valid_share": 1 / 2,
        "cold_test_share": 1 / 2,
        "repeat_share": 1 / 2,
        "dropped_users": 0,
    }


def test_repeats_are_those_of_validation_targets_over_one_percent():
    fresh, repeating = [1, 2, 3, 4], [1, 2, 1, 4]
    repeat_at_test_only = [1, 2, 3, 1]
    assert not leave_one_out(log_of([fresh] * 99 + [repeating])).has_repeats
    assert leave_one_out(log_of([fresh] * 98 + [repeating] * 2)).has_repeats
    assert not leave_one_out(log_of([repeat_at_test_only] * 3)).has_repeats
    # The same item in another user's history is no repeat.
    assert not leave_one_out(log_of([[1, 2, 3, 4], [5, 6, 2, 1]])).has_repeats


def test_several_targets_per_user_have_their_own_histories():
    data = many_targets_per_user()
    assert data.target_items("test").tolist() == [4, 9, 6]
    item_ids, lengths = data.histories("test", np.array([2, 1, 0]), 4)
    assert item_ids.tolist() == [[2, 3, 4, 5], [7, 8, 0, 0], [1, 2, 3, 0]]
    assert lengths.tolist() == [4, 2, 3]
    # Trained on are 1, 2, 7 and 8: both validation targets and all three of test are cold.
    statistics = describe_split(data)
    assert statistics["cold_valid_share"] == statistics["cold_test_share"] == 1
    assert statistics["repeat_share"] == 0


def test_arrays_round_trip_shares_memory_and_survives_json():
    data = leave_one_out(log_of([[1, 2, 3, 4], [3, 1, 2]]))
    arrays, rest = data.to_arrays()
    again = SplitData.from_arrays(arrays, json.loads(json.dumps(rest)))
    for name in ("items", "starts", "train_ends"):
        assert np.shares_memory(getattr(again, name), getattr(data, name))
    for split in ("valid", "test"):
        assert np.shares_memory(again.targets(split).rows, data.targets(split).rows)
        assert again.targets(split).positions.tolist() == data.targets(split).positions.tolist()
    for name in ("name", "checksum", "num_items", "statistics", "has_repeats"):
        assert getattr(again, name) == getattr(data, name)


def test_read_only_arrays_are_enough():
    data = leave_one_out(log_of([[1, 2, 3, 4], [3, 1, 2]]))
    arrays, rest = data.to_arrays()
    for array in arrays.values():
        array.setflags(write=False)
    again = SplitData.from_arrays(arrays, rest)
    item_ids, _ = again.histories("test", np.arange(2), 2)
    item_ids += 1  # what comes out is the caller's own
    assert again.training_counts().sum() == 3


def test_checksum_tells_logs_apart():
    one, other = log_of([[1, 2, 3], [3, 2, 1]]), log_of([[1, 2, 3], [3, 1, 2]])
    assert leave_one_out(one).checksum != leave_one_out(other).checksum
    assert leave_one_out(one).checksum == leave_one_out(log_of([[1, 2, 3], [3, 2, 1]])).checksum


def test_unknown_split_and_empty_windows_are_refused():
    data = leave_one_out(log_of([[1, 2, 3]]))
    with pytest.raises(ValueError, match="split must be 'valid' or 'test', got 'train'"):
        data.target_items("train")
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        data.histories("test", np.array([0]), 0)
