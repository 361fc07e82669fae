"""Which network is shipped: rules on a results table, ties, failed trials, and fronts of any shape."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from easrec.errors import InputError
from sweeps.choice import Pick, best_trial, choose, knee
from sweeps.pareto import ACCURACY


def results(rows, *, accuracy=ACCURACY):
    """rows: (architecture_id, seed, accuracy, flops, latency in ms)."""
    columns = ["architecture_id", "seed", accuracy, "flops", "latency_ms_p50"]
    frame = pd.DataFrame(rows, columns=columns).assign(status="finished", tradeoff=0.0)
    return frame.assign(trial_id=[f"{row[0]}-{index}" for index, row in enumerate(rows)])


FRONT = results(
    [
        ("tiny", 0, 0.100, 1e6, 0.3),
        ("bend", 0, 0.130, 2e6, 0.5),
        ("large", 0, 0.140, 1e8, 2.0),
        ("waste", 0, 0.120, 5e7, 0.2),
    ]
)


def picked(frame, rule):
    return choose(frame, Pick.parse(rule)).architecture_id


def test_each_rule_takes_its_network():
    assert picked(FRONT, "knee") == "bend"
    assert picked(FRONT, "best") == "large"
    assert picked(FRONT, "max-latency-ms=0.5") == "bend"
    # Off the front of FLOPs, and still the most accurate that is so fast.
    assert picked(FRONT, "max-latency-ms=0.25") == "waste"


def test_nothing_fast_enough_names_the_fastest():
    with pytest.raises(InputError, match=r"at most 0.1 ms; the fastest, waste, takes 0.200 ms"):
        picked(FRONT, "max-latency-ms=0.1")


def test_a_network_that_nobody_measured_is_not_fast_enough():
    frame = FRONT.assign(latency_ms_p50=[math.nan, 0.5, math.nan, math.nan])
    assert picked(frame, "max-latency-ms=9") == "bend"
    with pytest.raises(InputError, match="no latency of the sweep was measured"):
        picked(FRONT.drop(columns="latency_ms_p50"), "max-latency-ms=9")
    assert picked(FRONT.drop(columns="latency_ms_p50"), "knee") == "bend"


@pytest.mark.parametrize(
    "text", ["fastest", "", "max-latency-ms", "max-latency-ms=", "max-latency-ms=0", "knee=1"]
)
def test_other_rules_are_refused(text):
    with pytest.raises(InputError, match="--pick"):
        Pick.parse(text)


def test_means_over_seeds_choose_the_architecture_and_validation_its_seed():
    frame = results(
        [
            ("a", 0, 0.10, 1e6, 1.0),
            ("a", 1, 0.20, 1e6, 1.0),
            ("a", 2, 0.15, 1e6, 1.0),
            ("b", 0, 0.30, 1e6, 1.0),  # the best single network, of an architecture that is worse in the mean
            ("b", 1, 0.01, 1e6, 1.0),
        ]
    )
    choice = choose(frame, Pick("best"))
    assert (choice.architecture_id, choice.seed, choice.trial_id) == ("b", 0, "b-3")
    frame.loc[4, ACCURACY] = -0.5
    choice = choose(frame, Pick("best"))
    assert (choice.architecture_id, choice.seed, choice.trial_id) == ("a", 1, "a-1")
    assert "seed 1 is the best of 3 on validation" in choice.reason


def test_test_figures_choose_nothing():
    better = FRONT.assign(**{"test/unseen/ndcg_at_10": [0.9, 0.0, 0.0, 0.0]})
    for rule in ("knee", "best", "max-latency-ms=0.5"):
        assert picked(better, rule) == picked(FRONT, rule)


def test_failed_trials_never_count():
    frame = pd.concat([FRONT, results([("broken", 0, 0.9, 1e5, 0.1), ("bend", 1, 0.9, 2e6, 0.1)])])
    frame = frame.reset_index(drop=True)
    frame.loc[4:, "status"] = "failed"
    for rule, expected in (("knee", "bend"), ("best", "large"), ("max-latency-ms=0.25", "waste")):
        choice = choose(frame, Pick.parse(rule))
        assert (choice.architecture_id, choice.seed) == (expected, 0)
    # As results.parquet has them: without figures.
    frame.loc[4:, [ACCURACY, "flops", "latency_ms_p50"]] = math.nan
    assert choose(frame, Pick("best")).architecture_id == "large"


@pytest.mark.parametrize("status", ["failed", "finished"])
def test_a_sweep_without_a_finished_trial_has_nothing_to_choose(status):
    frame = results([("a", 0, math.nan if status == "finished" else 0.1, 1e6, 1.0)]).assign(status=status)
    with pytest.raises(InputError, match="no trial of the sweep has finished"):
        choose(frame, Pick("knee"))


def test_a_data_set_with_repeats_is_chosen_by_full():
    frame = results([("a", 0, 0.1, 1e6, 1.0), ("b", 0, 0.2, 2e6, 1.0)], accuracy="valid/full/ndcg_at_10")
    assert picked(frame, "best") == "b"


def test_trials_that_share_a_retraining_give_the_one_of_the_smallest_tradeoff():
    frame = results([("a", 0, 0.1, 1e6, 1.0), ("a", 0, 0.1, 1e6, 1.0)]).assign(tradeoff=[3.0, 0.3])
    assert best_trial(frame, "a", reason="").trial_id == "a-1"
    with pytest.raises(KeyError):
        best_trial(frame, "b", reason="")


def test_a_front_of_one_or_two_points_gives_the_more_accurate():
    assert picked(FRONT[:1], "knee") == "tiny"
    assert picked(FRONT[:2], "knee") == "bend"
    # Of equals, which are both on the front, the same one whatever the order of rows.
    equals = results([("b", 0, 0.1, 1e6, 1.0), ("a", 0, 0.1, 1e6, 1.0)])
    assert picked(equals, "knee") == picked(equals[::-1], "knee") == "a"
    assert picked(equals, "best") == picked(equals[::-1], "best") == "a"


def test_the_knee_is_on_a_log_scale():
    # On a linear axis 3e7 would bend farthest, since 1e7 and 3e7 lie at its very beginning.
    costs, accuracies = np.array([1e6, 1e7, 3e7, 1e9]), np.array([0.0, 0.6, 0.7, 1.0])
    assert knee(costs, accuracies) == 1
    linear = (accuracies - (costs - costs[0]) / (costs[-1] - costs[0])).argmax()
    assert linear == 2


def test_a_front_that_bends_the_other_way_has_no_knee():
    assert knee(np.array([1.0, 10.0, 100.0]), np.array([0.0, 0.1, 1.0])) == 2
    assert knee(np.array([1.0, 10.0, 100.0]), np.array([0.0, 0.5, 1.0])) == 2


@st.composite
def fronts(draw):
    size = draw(st.integers(1, 8))
    exponents = draw(st.lists(st.integers(0, 60), min_size=size, max_size=size, unique=True))
    values = draw(st.lists(st.integers(0, 1000), min_size=size, max_size=size, unique=True))
    return 10 ** (np.sort(exponents) / 10 + 3), np.sort(values) / 1000


@given(fronts())
def test_the_knee_is_the_point_farthest_from_the_chord(front):
    costs, accuracies = front
    found = knee(costs, accuracies)
    if len(costs) < 3:
        assert found == len(costs) - 1
        return
    # The distance by the cross product, in other words than the code's.
    x, y = np.log10(costs), accuracies
    x, y = (x - x.min()) / np.ptp(x), (y - y.min()) / np.ptp(y)
    chord = np.array([1.0, 1.0]) / math.sqrt(2)
    distances = [chord[0] * b - chord[1] * a for a, b in zip(x, y, strict=True)]
    assert distances[found] >= max(distances) - 1e-12
    if max(distances[1:-1]) > 1e-12:
        assert 0 < found < len(costs) - 1


@given(fronts(), st.floats(0.1, 10), st.floats(0.1, 10))
def test_the_knee_does_not_depend_on_units(front, flops_unit, accuracy_unit):
    costs, accuracies = front
    x, y = np.log(costs), accuracies
    if len(costs) > 2:
        distances = np.sort((y - y[0]) / np.ptp(y) - (x - x[0]) / np.ptp(x))
        if distances[-1] - distances[-2] < 1e-9:
            return  # equals: rounding may choose either
    assert knee(costs, accuracies) == knee(costs * flops_unit, accuracies * accuracy_unit)


def test_what_is_off_the_front_does_not_bend_it():
    points = [("a", 0, 0.100, 1e6, 1.0), ("b", 0, 0.125, 2e6, 1.0), ("c", 0, 0.140, 1e7, 1.0)]
    assert picked(results(points), "knee") == "b"
    # Dearer than c and less accurate: with it as an end, c would be the farthest from the line.
    points.append(("waste", 0, 0.139, 1e8, 1.0))
    assert picked(results(points), "knee") == "b"
    assert knee(np.array([1e6, 2e6, 1e7, 1e8]), np.array([0.100, 0.125, 0.140, 0.139])) == 2
