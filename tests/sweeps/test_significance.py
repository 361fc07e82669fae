"""Paired tests against scipy's, and Holm's correction against its definition."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_rel

from sweeps.significance import corrected, holm, over_repeats, over_users
from sweeps.user_ranks import Gains


def gains(earned: list[float], questions: list[int] | None = None) -> Gains:
    number = len(earned)
    asked = np.ones(number) if questions is None else np.array(questions, dtype=np.float64)
    return Gains(np.arange(number), asked, np.array(earned, dtype=np.float64))


def test_holm_gives_the_published_numbers() -> None:
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"p-values must lie in \[0, 1\]"):
        holm([0.5, math.nan])


def test_what_was_not_compared_counts_for_nothing() -> None:
    found = corrected([0.04, math.nan, 0.01])
    assert found[0] == pytest.approx(0.04) and found[2] == pytest.approx(0.02)
    assert math.isnan(found[1])
    assert corrected([]) == []


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_the_correction_is_the_closure_of_bonferronis(p_values: list[float]) -> None:
    # By its definition: a hypothesis is rejected if every intersection that it is part of is, by Bonferroni.
    numbers = range(len(p_values))
    for at in numbers:
        worst = max(
            min(1.0, len(group) * min(p_values[one] for one in group))
            for size in range(1, len(p_values) + 1)
            for group in itertools.combinations(numbers, size)
            if at in group
        )
        assert corrected(p_values)[at] == pytest.approx(worst)


def test_users_with_one_question_each_are_compared_by_students_paired_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(60), rng.random(60) * 0.8
    found = over_users(gains(list(first)), gains(list(second)))
    expected = ttest_rel(first, second)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.value == pytest.approx((first - second).mean())
    assert found.low < found.value < found.high


def test_users_with_two_questions_each_count_as_one_user() -> None:
    rng = np.random.default_rng(1)
    differences = rng.normal(0.1, 1, 40)
    found = over_users(gains(list(2 * differences), [2] * 40), gains([0.0] * 40, [2] * 40))
    assert found.p_value == pytest.approx(ttest_1samp(differences, 0).pvalue, rel=1e-9)


def test_users_with_unequal_numbers_of_questions_have_the_test_of_a_ratio() -> None:
    # Under no difference the p-value must be uniform, though questions and earnings go together.
    rng = np.random.default_rng(2)
    values = []
    for _ in range(300):
        questions = rng.integers(1, 9, 50)
        earned = rng.normal(0, 1, 50) * questions
        values.append(over_users(gains(list(earned), list(questions)), gains([0.0] * 50, list(questions))))
    assert np.mean([one.p_value < 0.05 for one in values]) == pytest.approx(0.05, abs=0.035)


def test_repeated_measurements_are_compared_in_pairs() -> None:
    first, second = np.array([1.0, 2.0, 3.5]), np.array([0.9, 1.8, 3.4])
    found = over_repeats(first, second)
    assert found.p_value == pytest.approx(ttest_rel(first, second).pvalue)
    interval = ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_what_cannot_be_told_is_not_told() -> None:
    assert math.isnan(over_repeats(np.array([1.0]), np.array([2.0])).p_value)
    assert over_repeats(np.array([1.0, 1.0]), np.array([1.0, 1.0])).p_value == 1.0
    assert over_repeats(np.array([1.0, 1.0]), np.array([2.0, 2.0])).p_value == 0.0
    with pytest.raises(ValueError, match="the same questions"):
        over_users(gains([1.0, 0.0]), gains([1.0, 0.0], [1, 2]))
