import numpy as np
import pytest
from scipy import stats

from easrec.errors import InputError
from easrec.evaluation import comparison
from easrec.evaluation.comparison import compare, compare_with_all, holm

# Darwin's differences of cross- and self-fertilised maize heights, in eighths of an inch (Fisher 1935).
DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], dtype=float)


def _gains(difference, *, seeds=3, users=400, seed=0):
    """Two methods of `seeds` seeds whose gains differ by `difference` on average."""
    rng = np.random.default_rng(seed)
    user = rng.random(users)
    return tuple(user + shift + rng.normal(0, 0.1, (seeds, users)) for shift in (difference, 0.0))


def test_the_p_values_are_the_published_ones_of_darwins_maize():
    pair = DARWIN[None], np.zeros((1, 15))
    found = compare(*pair, test="t")
    assert found.difference == pytest.approx(20.933, abs=1e-3)
    assert found.p_value == pytest.approx(0.0497, abs=1e-4)  # t = 2.148, 14 degrees of freedom
    assert compare(*pair, test="wilcoxon").p_value == pytest.approx(0.0413, abs=2e-3)
    assert 0 < found.low < 20.9 < found.high < 45


def test_seeds_are_averaged_and_are_no_more_users():
    first, second = _gains(0.02)
    found = compare(first, second, test="t")
    expected = stats.ttest_rel(first.mean(axis=0), second.mean(axis=0)).pvalue
    assert found.p_value == pytest.approx(expected)
    assert (found.users, found.seeds) == (400, (3, 3))
    repeated = compare(np.repeat(first, 4, axis=0), np.repeat(second, 4, axis=0), test="t")
    assert repeated.p_value == pytest.approx(found.p_value)


@pytest.mark.parametrize("test", ["wilcoxon", "t"])
def test_equal_methods_are_found_different_as_often_as_the_level_says(test, monkeypatch):
    monkeypatch.setattr(comparison, "RESAMPLES", 9)  # the interval is not looked at
    values = [compare(*_gains(0.0, users=60, seed=seed), test=test).p_value for seed in range(300)]
    assert 0.02 < np.mean(np.array(values) < 0.05) < 0.09


def test_a_difference_is_found_and_its_interval_covers_it():
    found = compare(*_gains(0.05))
    assert found.p_value < 1e-6 and found.low < 0.05 < found.high and found.low > 0.03
    turned = compare(*reversed(_gains(0.05)))
    assert turned.difference == pytest.approx(-found.difference)
    assert turned.p_value == pytest.approx(found.p_value)
    assert compare(*_gains(0.05)) == found


def test_methods_that_earn_the_same_are_not_told_apart():
    first, _ = _gains(0.0)
    found = compare(first, first)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_the_same_difference_for_every_user_is_no_accident():
    found = compare(np.full((1, 40), 0.5), np.full((1, 40), 0.25), test="t")
    assert (found.difference, found.low, found.high, found.p_value) == (0.25, 0.25, 0.25, 0)
    assert compare(np.full((1, 40), 0.5), np.full((1, 40), 0.25)).p_value < 1e-6


def test_holm_gives_the_published_numbers():
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(InputError, match=r"p-values must lie in \[0, 1\]"):
        holm([0.5, float("nan")])


def test_comparisons_made_together_are_corrected_together():
    first, second = _gains(0.012)
    same = _gains(0.012, seed=1)[0]
    found = compare_with_all(first, {"other": second, "same": same + 0.0})
    assert list(found) == ["other", "same"]
    values = [one.p_value for one in found.values()]
    assert [one.adjusted_p_value for one in found.values()] == pytest.approx(holm(values))
    assert found["other"].adjusted_p_value == pytest.approx(2 * min(values)) or min(values) > 0.5
    assert found["other"].p_value == compare(first, second).p_value


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((1, 4)), np.zeros((1, 5)), "the same users, got 4 and 5"),
        (np.zeros(4), np.zeros((1, 4)), r"must be \(seeds, users\), .* got \(4,\)"),
        (np.zeros((1, 1)), np.zeros((1, 1)), r"two users at least, got \(1, 1\)"),
        (np.full((1, 4), np.nan), np.zeros((1, 4)), "must be finite for every user"),
    ],
)
def test_what_cannot_be_compared_is_refused(first, second, message):
    with pytest.raises(InputError, match=message):
        compare(first, second)
    with pytest.raises(InputError, match="test must be one of"):
        compare(np.zeros((1, 4)), np.zeros((1, 4)), test="sign")
