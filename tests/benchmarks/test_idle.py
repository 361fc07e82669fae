import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.idle import Interval, idle_s_per_trial


@st.composite
def scheduled(draw):
    """Slots, each with computations in whole seconds one after the other."""
    slots = draw(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1), min_size=1))
    found = []
    for slot in slots:
        now = 0
        for wait, length in slot:
            found.append(Interval(now + wait, now + wait + length))
            now += wait + length
    return len(slots), found


@given(scheduled())
def test_idle_seconds_are_those_in_which_a_slot_computes_nothing(case):
    slots, intervals = case
    first, last = min(one.start_s for one in intervals), max(one.start_s for one in intervals)
    # Second by second: what is running in it.
    idle = sum(
        slots - sum(one.start_s <= second < one.end_s for one in intervals) for second in range(first, last)
    )
    assert idle_s_per_trial(intervals, slots, len(intervals)) == pytest.approx(idle / len(intervals))
