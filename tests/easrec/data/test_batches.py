from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from easrec.data.batches import (
    Batch,
    num_training_batches,
    training_batches,
    training_windows,
    validation_batches,
)
from easrec.data.sequences import SplitData, Targets

machine_independent = settings(deadline=None)
lengths_of_histories = st.lists(st.integers(3, 45), min_size=1, max_size=12)


def split_of(lengths: list[int]) -> SplitData:
    """Leave-one-out of users with these history lengths; interaction j of all is item j + 1."""
    ends = np.cumsum(lengths)
    rows = np.arange(len(lengths))
    return SplitData(
        name="by hand",
        checksum="none",
        num_items=int(ends[-1]),
        items=np.arange(1, ends[-1] + 1, dtype=np.int32),
        starts=ends - np.array(lengths),
        train_ends=ends - 2,
        valid=Targets(rows, ends - 2),
        test=Targets(rows, ends - 1),
        statistics={},
    )


def histories(data: SplitData) -> list[list[int]]:
    spans = zip(data.starts, data.train_ends, strict=True)
    return [data.items[start:end].tolist() for start, end in spans]


def padded(items: list[int], width: int) -> list[int]:
    return items + [0] * (width - len(items))


def slow_windows(history: list[int], max_length: int, shift: int) -> list[tuple[list[int], list[int]]]:
    """Windows of one user, newest first, by the words of the method."""
    windows = []
    last = len(history) - 1
    num_targets = max_length - shift if last > max_length else last
    while last > 0:
        first = max(0, last - num_targets)
        window = history[first : last + 1]
        windows.append((padded(window[:-1], max_length), padded(window[1:], max_length)))
        last, num_targets = first, max_length
    return windows


def collect(batches) -> Batch:
    batches = list(batches)
    return Batch(
        torch.cat([batch.item_ids for batch in batches]),
        torch.cat([batch.targets for batch in batches]),
    )


@machine_independent
@given(lengths_of_histories, st.integers(1, 13), st.integers(0, 2**32), st.integers(0, 50))
def test_windows_equal_the_slow_reference(lengths, max_length, seed, epoch):
    data = split_of(lengths)
    item_ids, targets = training_windows(data, max_length, seed=seed, epoch=epoch)
    assert item_ids.dtype == targets.dtype == np.int32
    found = list(zip(item_ids.tolist(), targets.tolist(), strict=True))
    for history in histories(data):
        num_targets = len(history) - 1
        shift = 0
        if num_targets > max_length:
            shift = max_length - sum(target > 0 for target in found[0][1])
            assert 0 <= shift < max_length
        expected = slow_windows(history, max_length, shift)
        assert found[: len(expected)] == expected
        found = found[len(expected) :]
    assert not found


@machine_independent
@given(
    lengths_of_histories,
    st.integers(1, 13),
    st.integers(1, 7),
    st.integers(0, 2**32),
    st.integers(0, 50),
    st.sampled_from(["windows", "prefixes"]),
)
def test_every_target_once_per_epoch_after_its_predecessor(
    lengths, max_length, batch_size, seed, epoch, form
):
    data = split_of(lengths)
    settings_ = {"form": form, "seed": seed, "epoch": epoch}
    batches = list(training_batches(data, max_length, batch_size, **settings_))
    assert len(batches) == num_training_batches(data, max_length, batch_size, **settings_)
    expected = Counter(item for history in histories(data) for item in history[1:])
    if not batches:
        assert not expected
        return
    assert all(len(batch.item_ids) == batch_size for batch in batches[:-1])
    assert {batch.last_only for batch in batches} == {form == "prefixes"}
    epoch_ = collect(batches)
    asked = epoch_.targets > 0
    assert Counter(epoch_.targets[asked].tolist()) == expected
    # In these data an item's predecessor in its history is the item one less.
    assert torch.equal(epoch_.item_ids[asked], epoch_.targets[asked] - 1)
    assert epoch_.item_ids.shape == epoch_.targets.shape == (len(asked), max_length)
    assert epoch_.item_ids.dtype == epoch_.targets.dtype == torch.int64


@machine_independent
@given(lengths_of_histories, st.integers(1, 9))
def test_prefixes_equal_the_slow_reference(lengths, max_length):
    data = split_of(lengths)
    expected = {}
    for history in histories(data):
        for end in range(1, len(history)):
            prefix = history[max(0, end - max_length) : end]
            expected[history[end]] = (padded(prefix, max_length), len(prefix) - 1)
    found = {}
    for batch in training_batches(data, max_length, 5, form="prefixes", seed=0, epoch=0):
        assert batch.last_only
        for item_ids, targets in zip(batch.item_ids, batch.targets, strict=True):
            (position,) = targets.nonzero().flatten().tolist()
            found[int(targets[position])] = (item_ids.tolist(), position)
    assert found == expected


def test_windows_of_a_hand_made_history():
    # 8 training items, 7 targets; N = 3. With s = 1 the windows have 2, 3 and 2 targets.
    data = split_of([10])
    found = {}
    for epoch in range(60):
        item_ids, targets = training_windows(data, 3, seed=0, epoch=epoch)
        found[tuple((targets > 0).sum(axis=1).tolist())] = item_ids.tolist(), targets.tolist()
    assert found.keys() == {(3, 3, 1), (2, 3, 2), (1, 3, 3)}
    assert found[2, 3, 2] == (
        [[6, 7, 0], [3, 4, 5], [1, 2, 0]],
        [[7, 8, 0], [4, 5, 6], [2, 3, 0]],
    )


def test_cut_points_move_between_epochs_and_users():
    data = split_of([60] * 40)
    shifts = []
    for epoch in range(30):
        _, targets = training_windows(data, 5, seed=3, epoch=epoch)
        newest = [targets[(targets == item).any(axis=1)][0] for item in data.train_ends]
        shifts.append([5 - int((row > 0).sum()) for row in newest])
    counts = np.bincount(np.ravel(shifts), minlength=5)
    # 1200 draws from 5 values: 240 each, standard deviation sqrt(1200 * 0.2 * 0.8) = 13.9.
    assert len(counts) == 5
    assert abs(counts - 240).max() < 5 * 13.9
    assert len({tuple(row) for row in shifts}) == 30


def test_a_history_of_at_most_n_targets_is_one_window_in_every_epoch():
    data = split_of([8, 3, 4])  # 5 targets, none, 1
    for epoch in range(20):
        item_ids, targets = training_windows(data, 5, seed=0, epoch=epoch)
        assert item_ids.tolist() == [[1, 2, 3, 4, 5], [12, 0, 0, 0, 0]]
        assert targets.tolist() == [[2, 3, 4, 5, 6], [13, 0, 0, 0, 0]]


@pytest.mark.parametrize("form", ["windows", "prefixes"])
def test_order_depends_on_seed_and_epoch_alone(form):
    data = split_of([12, 7, 30, 5] * 10)

    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = training_batches(data, 4, 16, form=form, seed=seed, epoch=epoch)
        return collect(batches).targets.tolist()

    first = order(1, 2)
    torch.rand(3)
    assert order(1, 2) == first
    assert order(1, 3) != first
    assert order(2, 2) != first
    assert order(2, 1) != first
    assert first != sorted(first)


def test_batches_hold_the_windows_of_their_epoch():
    data = split_of([12, 7, 30, 5] * 10)
    batches = training_batches(data, 4, 16, form="windows", seed=1, epoch=2)
    windows, _ = training_windows(data, 4, seed=1, epoch=2)
    assert sorted(collect(batches).item_ids.tolist()) == sorted(windows.tolist())


@machine_independent
@given(lengths_of_histories, st.integers(1, 9), st.integers(1, 7), st.integers(0, 9))
def test_each_validation_question_once_with_its_history(lengths, max_length, batch_size, epoch):
    data = split_of(lengths)
    epoch_ = collect(validation_batches(data, max_length, batch_size, seed=0, epoch=epoch))
    asked = epoch_.targets > 0
    assert (asked.sum(dim=1) == 1).all()
    order = np.argsort(epoch_.targets.max(dim=1).values.numpy())
    assert epoch_.targets.max(dim=1).values[order].tolist() == data.target_items("valid").tolist()
    item_ids, history_lengths = data.histories("valid", np.arange(data.num_users), max_length)
    assert epoch_.item_ids[order].tolist() == item_ids.tolist()
    assert asked.int().argmax(dim=1)[order].tolist() == (history_lengths - 1).tolist()


def test_validation_questions_are_shuffled_anew_each_epoch():
    data = split_of([5] * 40)

    def order(epoch: int) -> list[list[int]]:
        return collect(validation_batches(data, 4, 16, seed=0, epoch=epoch)).targets.tolist()

    assert order(0) == order(0) != order(1)


def test_several_validation_questions_of_a_user_and_one_without_a_history():
    data = SplitData(
        name="by hand",
        checksum="none",
        num_items=6,
        items=np.array([1, 2, 3, 4, 5, 6], dtype=np.int32),
        starts=np.array([0, 4]),
        train_ends=np.array([1, 4]),
        valid=Targets(np.array([0, 1, 0]), np.array([1, 4, 3])),
        test=Targets(np.array([1]), np.array([5])),
        statistics={},
    )
    (batch,) = validation_batches(data, 2, 8, seed=0, epoch=0)
    asked = sorted(zip(batch.item_ids.tolist(), batch.targets.tolist(), strict=True))
    assert asked == [([1, 0], [2, 0]), ([2, 3], [0, 4])]
    assert num_training_batches(data, 2, 8, form="windows", seed=0, epoch=0) == 0
    assert list(training_batches(data, 2, 8, form="prefixes", seed=0, epoch=0)) == []


def test_no_test_item_reaches_training_or_validation():
    marker = 999
    data = split_of([3, 9, 30, 4, 17] * 8)
    data.items[data.test.positions] = marker
    for epoch in range(10):
        batches = [
            *training_batches(data, 4, 8, form="windows", seed=0, epoch=epoch),
            *training_batches(data, 4, 8, form="prefixes", seed=0, epoch=epoch),
            *validation_batches(data, 4, 8, seed=0, epoch=epoch),
        ]
        windows = training_windows(data, 4, seed=0, epoch=epoch)
        assert not any((array == marker).any() for array in windows)
        for batch in batches:
            assert not (batch.item_ids == marker).any()
            assert not (batch.targets == marker).any()


def test_no_validation_item_reaches_training():
    marker = 999
    data = split_of([3, 9, 30, 4, 17] * 8)
    data.items[data.valid.positions] = marker
    for form in ("windows", "prefixes"):
        batch = collect(training_batches(data, 4, 8, form=form, seed=0, epoch=0))
        assert not (batch.item_ids == marker).any()
        assert not (batch.targets == marker).any()


@pytest.mark.parametrize("form", ["windows", "prefixes"])
def test_batches_are_writable_though_the_data_are_not(form):
    data = split_of([9, 30])
    for array in data.to_arrays()[0].values():
        array.setflags(write=False)
    for batch in training_batches(data, 4, 8, form=form, seed=0, epoch=0):
        batch.item_ids.zero_()
        batch.targets.zero_()
    assert data.items.min() == 1


def test_arguments_out_of_range_are_refused():
    data = split_of([9])
    sizes = {"seed": 0, "epoch": 0}
    with pytest.raises(ValueError, match="got max_length=0, batch_size=8"):
        next(training_batches(data, 0, 8, form="windows", **sizes))
    with pytest.raises(ValueError, match="got max_length=4, batch_size=0"):
        next(validation_batches(data, 4, 0, **sizes))
    with pytest.raises(ValueError, match="form must be 'windows' or 'prefixes', got 'suffixes'"):
        num_training_batches(data, 4, 8, form="suffixes", **sizes)
