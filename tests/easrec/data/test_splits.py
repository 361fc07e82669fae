import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from easrec.data.batches import training_windows, validation_batches
from easrec.data.interactions import Interactions, content_checksum
from easrec.data.sequences import SplitData, leave_one_out
from easrec.data.splits import split_interactions, temporal_split
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from easrec.evaluation.protocols import evaluate


def log_of(histories: list[list[tuple[int, int]]]) -> Interactions:
    """Users with their (item, time) pairs, in the order of time."""
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    items = np.array([item for history in histories for item, _ in history], dtype=np.int32)
    times = np.array([time for history in histories for _, time in history], dtype=np.int64)
    user_ids, item_ids = np.arange(len(histories)), np.arange(-1, int(items.max()))
    return Interactions(
        name="by hand",
        users=users,
        items=items,
        timestamps=times,
        user_ids=user_ids,
        item_ids=item_ids,
        dropped={"users": 2, "interactions": 3},
        checksum=content_checksum(users, items, user_ids, item_ids),
    )


BY_HAND = [
    [(1, 0), (2, 10), (3, 20), (4, 21), (5, 30)],  # training 1 2, validation 3 4, test 5
    [(2, 1), (3, 2), (1, 19)],  # training alone
    [(4, 20), (1, 25), (3, 30)],  # cold: its first interaction cannot be asked for
]


def questions(data: SplitData, split: str) -> list[tuple[int, list[int], int]]:
    """User row, history and target of each question."""
    asked = data.targets(split)
    return [
        (int(row), data.items[data.starts[row] : position].tolist(), int(data.items[position]))
        for row, position in zip(asked.rows, asked.positions, strict=True)
    ]


def test_a_log_by_hand():
    data = temporal_split(log_of(BY_HAND), boundaries=(20, 30))
    training = [data.items[a:b].tolist() for a, b in zip(data.starts, data.train_ends, strict=True)]
    assert training == [[1, 2], [2, 3, 1], []]
    assert questions(data, "valid") == [(0, [1, 2], 3), (0, [1, 2, 3], 4), (2, [4], 1)]
    assert questions(data, "test") == [(0, [1, 2, 3, 4], 5), (2, [4, 1], 3)]
    assert data.statistics == {
        "users": 3,
        "items": 5,
        "interactions": 11,
        "mean_length": 11 / 3,
        "training_targets": 1 + 2,
        "cold_valid_share": 1 / 3,
        "cold_test_share": 1 / 2,
        "repeat_share": 0.0,
        "dropped_users": 2,
        "cold_users": 1,
        "questions_without_history": 1,
        "valid_from": 20,
        "test_from": 30,
    }


def test_one_question_per_user_is_the_first_or_the_last_of_the_period():
    log = log_of(BY_HAND)
    first = temporal_split(log, boundaries=(20, 30), asked="first")
    last = temporal_split(log, boundaries=(20, 30), asked="last")
    assert [target for _, _, target in questions(first, "valid")] == [3, 1]
    assert [target for _, _, target in questions(last, "valid")] == [4, 1]
    assert len({data.checksum for data in (first, last, temporal_split(log, boundaries=(20, 30)))}) == 3


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), min_size=3, max_size=9), min_size=4),
    st.floats(0.1, 0.4),
    st.floats(0.1, 0.4),
)
def test_nothing_trained_on_is_as_late_as_anything_asked(histories, valid_share, test_share):
    log = log_of([sorted(history, key=lambda pair: pair[1]) for history in histories])
    try:
        data = temporal_split(log, valid_share=valid_share, test_share=test_share)
    except InputError:
        assume(False)
    rows = np.repeat(np.arange(data.num_users), np.diff(data.starts, append=len(data.items)))
    trained = np.arange(len(data.items)) < data.train_ends[rows]
    latest = log.timestamps[trained].max()
    assert latest < log.timestamps[data.valid.positions].min()
    assert log.timestamps[data.valid.positions].max() < log.timestamps[data.test.positions].min()
    # Each interaction is trained on, asked once, or a user's first one.
    asked = np.concatenate((data.valid.positions, data.test.positions))
    firsts = np.setdiff1d(data.starts, np.flatnonzero(trained))
    together = np.sort(np.concatenate((np.flatnonzero(trained), asked, firsts)))
    assert together.tolist() == list(range(len(data.items)))
    assert len(firsts) == data.statistics["questions_without_history"]


def test_leave_one_out_trains_on_what_is_later_than_a_question_and_a_temporal_split_does_not():
    log = log_of(BY_HAND)
    data = leave_one_out(log)
    trained = data.items[: data.train_ends[0]]
    assert len(trained) == 3
    assert log.timestamps[data.train_ends[0] - 1] > log.timestamps[data.test.positions].min()


def test_shares_are_met_as_far_as_equal_times_allow():
    log = synthetic_interactions(200, 100, 20, seed=0)
    times = np.random.default_rng(0).permutation(len(log.items))
    order = np.lexsort((times, log.users))
    log = Interactions(**{**vars(log), "timestamps": times[order], "items": log.items[order]})
    data = temporal_split(log, valid_share=0.2, test_share=0.1)
    # First interactions in the later periods are not asked for.
    without = data.statistics["questions_without_history"]
    assert len(data.test.rows) + len(data.valid.rows) + without == pytest.approx(0.3 * len(log.items), abs=1)
    assert len(data.test.rows) == pytest.approx(0.1 * len(log.items), abs=without + 1)


def test_the_checksum_knows_the_times_that_the_split_depends_on():
    later = [[(item, time + 11) for item, time in BY_HAND[0]], *BY_HAND[1:]]
    one, other = log_of(BY_HAND), log_of(later)
    assert one.checksum == other.checksum
    split = [temporal_split(log, boundaries=(20, 30)) for log in (one, other, log_of(BY_HAND))]
    assert split[0].checksum == split[2].checksum != split[1].checksum
    assert leave_one_out(one).checksum not in {data.checksum for data in split}


def test_batches_and_evaluation_take_a_temporal_split():
    log = synthetic_interactions(60, 50, 12, seed=0)
    data = split_interactions(log, "temporal")
    assert data.statistics["cold_users"] > 0
    item_ids, targets = training_windows(data, 5, seed=0, epoch=0)
    assert (targets > 0).sum() == data.statistics["training_targets"]
    assert all((batch.item_ids[:, 0] > 0).all() for batch in validation_batches(data, 5, 8, seed=0, epoch=0))
    popular = data.training_counts().astype(np.float32)

    def scorer(ids, lengths):
        import torch

        scores = torch.from_numpy(popular).expand(len(ids), -1).clone()
        scores[:, 0] = -torch.inf
        return scores

    found = evaluate(scorer, data, "test", max_length=5)
    assert 0 < found["unseen/recall_at_10"] < 1
    assert (item_ids > 0).any()


def test_methods_by_name():
    log = log_of(BY_HAND)
    assert split_interactions(log).checksum == leave_one_out(log).checksum
    assert split_interactions(log, "temporal").checksum == temporal_split(log).checksum
    with pytest.raises(ValueError, match=r"method must be one of .*'temporal'.*, got 'random'"):
        split_interactions(log, "random")
    with pytest.raises(ValueError, match=r"asked must be one of .*, got 'some'"):
        temporal_split(log, asked="some")
    with pytest.raises(ValueError, match="the shares must be above 0 and below 1 together"):
        temporal_split(log, valid_share=0.5, test_share=0.5)


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ((0, 30), "has no training targets before the first of the boundaries 0 and 30"),
        ((22, 24), "has no validation questions between them of the boundaries 22 and 24"),
        ((20, 31), "has no test questions after the second of the boundaries 20 and 31"),
        ((30, 20), "cannot be split at the times 30 and 20, which must ascend; give other times or shares"),
    ],
)
def test_periods_with_nothing_in_them_are_an_input_error(boundaries, message):
    with pytest.raises(InputError, match=message):
        temporal_split(log_of(BY_HAND), boundaries=boundaries)


def test_times_that_are_all_the_same_are_an_input_error():
    log = log_of([[(1, 5), (2, 5), (3, 5)], [(3, 5), (2, 5), (1, 5)]])
    with pytest.raises(InputError, match="cannot be split at the times 5 and 5"):
        temporal_split(log)
