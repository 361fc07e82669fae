"""Bootstrap intervals against resampling one user at a time, and against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap

from easrec.evaluation.ranking import ranking_metrics
from sweeps import intervals
from sweeps.intervals import Estimate, bootstrap, largest_difference


def geometric(size, seed=0):
    return np.random.default_rng(seed).geometric(0.08, size=size)


@pytest.mark.parametrize("num_users", [40, 700])
def test_one_question_each_agrees_with_scipy(num_users):
    ranks = geometric(num_users)
    found = bootstrap(ranks, np.arange(num_users))["ndcg_at_10"]
    gains = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)
    theirs = scipy_bootstrap(
        (gains,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert found.value == pytest.approx(gains.mean())
    assert abs(found.low - theirs.low) < 0.04 * width
    assert abs(found.high - theirs.high) < 0.04 * width


def test_users_with_several_questions_are_drawn_whole():
    generator = np.random.default_rng(3)
    users = np.repeat(np.arange(60), generator.integers(1, 5, size=60))
    # Users differ more than their questions do, so that drawing questions would give a narrower interval.
    ranks = np.where(np.isin(users, generator.choice(60, 30, replace=False)), 1, 50)
    found = bootstrap(ranks, users)["recall_at_10"]
    means = []
    for _ in range(4000):
        drawn = np.concatenate([np.flatnonzero(users == user) for user in generator.integers(0, 60, size=60)])
        means.append(ranking_metrics(ranks[drawn], 10)["recall_at_10"])
    low, high = np.quantile(means, [0.025, 0.975])
    assert abs(found.low - low) < 0.05 * (high - low)
    assert abs(found.high - high) < 0.05 * (high - low)
    alone = bootstrap(ranks, np.arange(len(ranks)))["recall_at_10"]
    assert alone.high - alone.low < 0.85 * (found.high - found.low)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=50), st.integers(1, 10))
def test_values_are_those_of_ranking_metrics_within_their_intervals(ranks, k):
    ranks = np.array(ranks)
    found = bootstrap(ranks, np.arange(len(ranks)), k=k, resamples=2000)
    assert {name: estimate.value for name, estimate in found.items()} == ranking_metrics(ranks, k)
    for estimate in found.values():
        assert 0 <= estimate.low <= estimate.value + 1e-12
        assert estimate.value - 1e-12 <= estimate.high <= 1


def test_the_seed_fixes_the_interval_and_the_chunk_size_does_not_blur_it(monkeypatch):
    ranks, users = geometric(300), np.arange(300)
    first = bootstrap(ranks, users)
    assert bootstrap(ranks, users) == first
    assert bootstrap(ranks, users, seed=1) != first
    monkeypatch.setattr(intervals, "_MOST_COUNTS", 1000)
    assert bootstrap(ranks, users) == first


def test_a_wider_level_is_a_wider_interval_and_more_users_a_narrower_one():
    ranks = geometric(400)
    narrow, wide = (bootstrap(ranks, np.arange(400), level=level)["mrr_at_10"] for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    fourfold = bootstrap(np.tile(ranks, 4), np.arange(1600))["mrr_at_10"]
    once = bootstrap(ranks, np.arange(400))["mrr_at_10"]
    assert (fourfold.high - fourfold.low) / (once.high - once.low) == pytest.approx(0.5, abs=0.03)


def test_the_largest_difference_is_of_shared_metrics():
    estimates = {"a": Estimate(0.5, 0.4, 0.6), "b": Estimate(0.3, 0.2, 0.4), "c": Estimate(0.9, 0.0, 1.0)}
    assert largest_difference(estimates, {"a": 0.51, "b": 0.1, "flops": 1e9}) == ("b", pytest.approx(0.2))
    assert largest_difference(estimates, {"flops": 1e9}) is None
