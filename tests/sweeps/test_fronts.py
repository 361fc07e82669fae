"""Fronts of several costs against their definition, and the areas on the way to them."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.fronts import front, hypervolume_steps
from sweeps.pareto import pareto_flags

VALID = "valid/unseen/ndcg_at_10"
COSTS = ("flops", "latency_ms_p50")


def table(points):
    """Trials of one seed from (accuracy, FLOPs, latency), each of an architecture of its own."""
    return pd.DataFrame(
        [
            {"architecture_id": f"a{number}", "seed": 0, VALID: accuracy, "end_ms": number}
            | dict(zip(COSTS, costs, strict=True))
            for number, (accuracy, *costs) in enumerate(points)
        ]
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=12))
def test_the_front_of_three_is_what_none_beats(points):
    points = [tuple(map(float, point)) for point in points]

    def beats(one, other):
        at_least = one[0] >= other[0] and one[1] <= other[1] and one[2] <= other[2]
        return at_least and one != other

    expected = {
        f"a{number}"
        for number, point in enumerate(points)
        if not any(beats(other, point) for other in points)
    }
    assert set(front(table(points), COSTS)) == expected


def test_the_front_of_two_is_that_of_the_sweep_cheapest_first():
    frame = table([(0.3, 30, 1), (0.1, 10, 9), (0.2, 20, 5), (0.15, 25, 5)])
    assert front(frame, ("flops",)) == ["a1", "a2", "a0"]
    flags = pareto_flags(frame)
    assert set(front(frame, ("flops",))) == set(frame.loc[flags, "architecture_id"])


def test_what_was_not_measured_is_on_no_front_of_latency():
    frame = table([(0.3, 30, np.nan), (0.2, 20, 5)])
    assert front(frame, COSTS) == ["a1"]
    assert front(frame, ("flops",)) == ["a1", "a0"]
    assert front(frame.drop(columns="latency_ms_p50"), ("flops",)) == ["a1", "a0"]


def test_the_area_of_two_points_is_worked_out_by_hand():
    # Accuracy 1 and 2 at 10 and 100 FLOPs; the reference is a tenth beyond: 0.9, and 2.1 decades.
    frame = table([(1.0, 10, 1), (2.0, 100, 1)])
    first, last = hypervolume_steps(frame, ("flops",))
    total = 0.1 * 1.1 + 1.0 * 0.1
    assert last == 1.0
    assert first == pytest.approx(0.1 * 1.1 / total)


def test_areas_grow_with_the_trials_in_the_order_of_their_ends():
    points = [(0.1, 10, 3), (0.3, 30, 2), (0.2, 5, 9), (0.25, 30, 1), (0.05, 50, 10)]
    for order in itertools.permutations(range(5), 5):
        frame = table(points).assign(end_ms=order)
        steps = hypervolume_steps(frame, COSTS)
        assert steps.is_monotonic_increasing and steps.iloc[-1] == 1.0
        assert steps.index.tolist() == frame.sort_values("end_ms").index.tolist()


def test_equal_points_have_no_area():
    assert hypervolume_steps(table([(0.1, 10, 1), (0.1, 10, 1)]), COSTS).empty
    assert hypervolume_steps(table([(0.1, 10, 1)]).drop(columns="latency_ms_p50"), COSTS).empty
