import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.pareto import ACCURACY, configurations, hypervolume, pareto_flags


def results(rows, *, cost="flops"):
    """rows: (architecture_id, seed, accuracy, cost)."""
    return pd.DataFrame(rows, columns=["architecture_id", "seed", ACCURACY, cost])


def test_an_architecture_beaten_in_both_is_off_the_front():
    frame = results([("a", 0, 0.1, 10.0), ("b", 0, 0.2, 20.0), ("c", 0, 0.15, 30.0)])
    assert pareto_flags(frame).tolist() == [True, True, False]


def test_less_accurate_at_equal_cost_and_dearer_at_equal_accuracy_are_off_the_front():
    frame = results([("a", 0, 0.2, 10.0), ("b", 0, 0.1, 10.0), ("c", 0, 0.2, 11.0)])
    assert pareto_flags(frame).tolist() == [True, False, False]


def test_equal_points_are_all_on_the_front():
    frame = results([("a", 0, 0.2, 10.0), ("b", 0, 0.2, 10.0), ("c", 0, 0.1, 10.0)])
    assert pareto_flags(frame).tolist() == [True, True, False]


def test_the_front_is_that_of_means_over_seeds():
    # b wins seed 0 against a, but loses on the mean: (0.3 + 0.0) / 2 against 0.2.
    frame = results([("a", 0, 0.2, 10.0), ("a", 1, 0.2, 10.0), ("b", 0, 0.3, 20.0), ("b", 1, 0.0, 20.0)])
    assert pareto_flags(frame).tolist() == [True, True, False, False]


def test_a_retraining_shared_by_trials_counts_once():
    # Two tradeoffs of seed 0 derived a and share its retraining: the mean is (0.1 + 0.4) / 2, not 0.2.
    frame = results([("a", 0, 0.1, 10.0), ("a", 0, 0.1, 10.0), ("a", 1, 0.4, 10.0)])
    assert configurations(frame, ["flops"]).loc["a", ACCURACY] == pytest.approx((0.1 + 0.4) / 2)


def test_separate_retrainings_of_one_seed_count_each():
    frame = results([("a", 0, 0.1, 10.0), ("a", 0, 0.4, 10.0), ("a", 1, 0.4, 10.0)])
    assert configurations(frame, ["flops"]).loc["a", ACCURACY] == pytest.approx((0.1 + 0.4 + 0.4) / 3)


@pytest.mark.parametrize("accuracy, cost", [(math.nan, 1.0), (0.9, math.nan)])
def test_a_trial_that_lacks_a_value_is_not_on_the_front_and_beats_nobody(accuracy, cost):
    frame = results([("a", 0, 0.1, 10.0), ("lacking", 0, accuracy, cost)])
    assert pareto_flags(frame).tolist() == [True, False]


def test_a_trial_without_latency_stays_off_a_front_that_its_architecture_is_on():
    rows = [("a", 0, 0.1, 2.0), ("a", 1, 0.1, math.nan)]
    assert pareto_flags(results(rows, cost="latency_ms_p50"), cost="latency_ms_p50").tolist() == [True, False]


def test_a_cost_that_nobody_measured_has_an_empty_front():
    frame = results([("a", 0, 0.1, 10.0)])
    assert pareto_flags(frame, cost="latency_ms_p50").tolist() == [False]
    assert hypervolume(frame, reference=(0.0, 1.0), cost="latency_ms_p50") == 0.0


def test_flags_keep_the_index_of_the_frame_and_are_boolean():
    frame = results([("a", 0, 0.1, 10.0), ("b", 0, 0.05, 20.0)]).set_index(pd.Index([7, 3]))
    flags = pareto_flags(frame)
    assert flags.index.tolist() == [7, 3] and flags.dtype == bool


def test_unknown_accuracy_is_named():
    with pytest.raises(ValueError, match=r"no metric 'valid/full/ndcg_at_10'"):
        pareto_flags(results([("a", 0, 0.1, 10.0)]), accuracy="valid/full/ndcg_at_10")


# Few distinct values, so that ties in one or both objectives are frequent.
values = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, math.nan])
points = st.lists(st.tuples(values, values), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(points)
def test_flags_are_those_of_comparing_every_pair(pairs):
    frame = results([(f"a{index}", 0, *pair) for index, pair in enumerate(pairs)])

    def dominates(one, other):
        return one[0] >= other[0] and one[1] <= other[1] and one != other

    complete = [pair for pair in pairs if not any(map(math.isnan, pair))]
    expected = [pair in complete and not any(dominates(one, pair) for one in complete) for pair in pairs]
    assert pareto_flags(frame).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(points, st.sampled_from([0.0, 0.25, 0.6]), st.sampled_from([0.4, 0.75, 1.5]))
def test_hypervolume_is_the_area_of_the_cells_that_some_point_covers(pairs, floor, ceiling):
    frame = results([(f"a{index}", 0, *pair) for index, pair in enumerate(pairs)])
    # All corners lie on a grid of 0.05, so counting its cells measures the area exactly.
    middles = np.arange(0.025, 2.0, 0.05)
    accuracy, cost = np.meshgrid(middles, middles)
    covered = np.zeros_like(accuracy, dtype=bool)
    for point in pairs:
        covered |= (accuracy < point[0]) & (cost > point[1])
    covered &= (accuracy > floor) & (cost < ceiling)
    area = hypervolume(frame, reference=(floor, ceiling))
    assert area == pytest.approx(covered.sum() * 0.05**2, abs=1e-12)


def test_hypervolume_of_two_steps():
    # From the reference (0.1, 5): 0.1 wide at cost 2, then a further 0.2 at cost 3.
    frame = results([("a", 0, 0.2, 2.0), ("b", 0, 0.4, 3.0), ("beyond", 0, 0.9, 6.0)])
    assert hypervolume(frame, reference=(0.1, 5.0)) == pytest.approx(0.1 * (5 - 2) + 0.2 * (5 - 3))


def test_hypervolume_refuses_a_reference_point_that_bounds_nothing():
    with pytest.raises(ValueError, match=r"finite, got \(0.0, inf\)"):
        hypervolume(results([("a", 0, 0.1, 1.0)]), reference=(0.0, math.inf))
