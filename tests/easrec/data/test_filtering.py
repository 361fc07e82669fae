from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from easrec.data.filtering import core_rows, distinct_rows, time_order

ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5), st.integers(-3, 3)), max_size=60)


def columns(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return table[:, 0].astype(np.int32), table[:, 1].astype(np.int32), table[:, 2]


def slow_core(rows: list[tuple[int, int, int]], min_per_user: int, min_per_item: int) -> list[bool]:
    """Rows taken out one at a time, in any order, until all counts are large enough."""
    kept = [True] * len(rows)
    while True:
        users = Counter(user for (user, _, _), stays in zip(rows, kept, strict=True) if stays)
        items = Counter(item for (_, item, _), stays in zip(rows, kept, strict=True) if stays)
        for index, (user, item, _) in enumerate(rows):
            if kept[index] and (users[user] < min_per_user or items[item] < min_per_item):
                kept[index] = False
                break
        else:
            return kept


@settings(deadline=None)
@given(ROWS, st.integers(1, 4), st.integers(1, 4))
def test_the_core_is_that_of_taking_rows_out_one_by_one(rows, min_per_user, min_per_item):
    users, items, _ = columns(rows)
    found = core_rows(users, items, min_per_user=min_per_user, min_per_item=min_per_item)
    assert found.tolist() == slow_core(rows, min_per_user, min_per_item)


def test_a_user_goes_because_an_item_went():
    # Item 2 has one row; without it user 1 has one, without that item 1 has one, and then user 0.
    users = np.array([0, 0, 1, 1, 2, 2, 3, 3], dtype=np.int32)
    items = np.array([0, 1, 1, 2, 3, 4, 3, 4], dtype=np.int32)
    found = core_rows(users, items, min_per_user=2, min_per_item=2)
    assert found.tolist() == [False] * 4 + [True] * 4
    assert core_rows(users, items, min_per_user=2, min_per_item=1).all()
    assert not core_rows(users, items, min_per_user=3, min_per_item=1).any()


@settings(deadline=None)
@given(ROWS, st.sampled_from(["first", "last"]))
def test_one_row_stays_of_each_pair(rows, duplicates):
    users, items, _ = columns(rows)
    expected = {}
    for index, (user, item, _) in enumerate(rows):
        if duplicates == "last" or (user, item) not in expected:
            expected[user, item] = index
    found = distinct_rows(users, items, duplicates)
    assert np.flatnonzero(found).tolist() == sorted(expected.values())
    assert distinct_rows(users, items, "keep").all()


@pytest.mark.parametrize("stretch", [1, 1 << 62])  # the second does not fit into one number with the user
@settings(deadline=None)
@given(ROWS)
@example([(0, 0, 1), (0, 0, -1)])
@example([(1, 0, 0), (0, 0, 1), (1, 0, -1), (0, 0, 0)])
def test_order_is_by_user_then_time_and_ties_keep_their_order(stretch, rows):
    users, _, times = columns(rows)
    times = times.clip(-1, 1) * stretch
    expected = sorted(range(len(rows)), key=lambda row: (users[row], times[row]))
    assert time_order(users, times).tolist() == expected
    assert time_order(users, times.astype(np.float64)).tolist() == expected
