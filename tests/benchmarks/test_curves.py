import math

import pytest

from benchmarks.curves import Point, Reached, best_epoch, seconds_to_reach, without_gain


def curve(*values, seconds=10.0):
    return [Point(seconds * epoch, {"full": value}) for epoch, value in enumerate(values, 1)]


def test_best_epoch_is_the_first_of_equals():
    assert best_epoch(curve(0.1, 0.3, 0.2, 0.3), "full") == 2


def test_without_gain_counts_epochs_since_the_best():
    assert without_gain([], "full") == 0
    assert without_gain(curve(0.1, 0.3), "full") == 0
    assert without_gain(curve(0.1, 0.3, 0.2, 0.3), "full") == 2


@pytest.mark.parametrize(
    ("value", "expected"), [(0.1, 10.0), (0.15, 20.0), (0.3, 20.0), (0.31, math.inf), (0.0, 10.0)]
)
def test_seconds_to_reach_is_the_end_of_the_first_epoch_at_the_value(value, expected):
    assert seconds_to_reach(curve(0.1, 0.3, 0.2), "full", value) == expected


def test_trainings_that_never_reach_the_value_count_as_endless():
    assert Reached([3.0, 1.0, math.inf]).median == 3.0
    assert Reached([3.0, math.inf]).median == math.inf
    assert Reached([3.0, 1.0, math.inf]).count == 2
