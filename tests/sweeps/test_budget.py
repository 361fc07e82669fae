"""The best network within a budget, and which others may be as good."""

import numpy as np
import pandas as pd
import pytest

from sweeps.budget import Budget, answer
from sweeps.confidence import Confidence
from sweeps.user_ranks import Gains

VALID = "valid/unseen/ndcg_at_10"


def trials(*, latency=True):
    rows = [
        # architecture, seed, accuracy, FLOPs, latency
        ("small", 0, 0.100, 1e6, 0.2),
        ("small", 1, 0.102, 1e6, 0.2),
        ("middle", 0, 0.120, 2e6, 0.9),
        ("middle", 1, 0.118, 2e6, 0.9),
        ("large", 0, 0.130, 4e6, 0.5),
    ]
    frame = pd.DataFrame(rows, columns=["architecture_id", "seed", VALID, "flops", "latency_ms_p50"])
    frame = frame.assign(trial_id=[f"t{number}" for number in range(5)], tradeoff=0.1)
    return frame if latency else frame.assign(latency_ms_p50=np.nan)


def test_within_a_budget_the_best_mean_wins_and_its_best_seed_is_named():
    frame = trials()
    found = answer(frame, Confidence(frame), Budget(flops=2e6))
    assert (found.best, found.trial_id, found.num_fitting) == ("middle", "t2", 2)
    assert answer(frame, Confidence(frame), Budget()).best == "large"
    assert answer(frame, Confidence(frame), Budget(latency_ms=0.5)).best == "large"
    assert answer(frame, Confidence(frame), Budget(latency_ms=0.5, flops=3e6)).best == "small"


def test_a_budget_that_is_kept_exactly_is_kept():
    frame = trials()
    assert answer(frame, Confidence(frame), Budget(flops=1e6)).best == "small"
    assert answer(frame, Confidence(frame), Budget(latency_ms=0.2)).best == "small"


def test_who_may_be_as_good_is_named_cheapest_first():
    frame = trials()
    generator = np.random.default_rng(0)

    def gains(mean):
        earned = generator.normal(mean, 0.6, 500)
        return Gains(np.arange(500), np.ones(500), earned - earned.mean() + mean)

    known = {row["trial_id"]: gains(row[VALID]) for row in frame.to_dict("records")}
    found = answer(frame, Confidence(frame, known), Budget(flops=5e6))
    assert list(found.equals) == ["small", "middle"]
    # The same users with no noise between networks: everything is told apart.
    base = generator.normal(0, 0.2, 500)
    known = {
        row["trial_id"]: Gains(np.arange(500), np.ones(500), base - base.mean() + row[VALID])
        for row in frame.to_dict("records")
    }
    assert answer(frame, Confidence(frame, known), Budget(flops=5e6)).equals == {}


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (
            Budget(flops=5e5),
            "No network known takes at most 0.50 MFLOPs: the smallest network known, small, ",
        ),
        (Budget(latency_ms=0.1), "No network known takes at most 0.1 ms: the fastest network known, small, "),
        (Budget(latency_ms=0.5, flops=5e5), "of the networks that are fast enough none is so small"),
    ],
    ids=["FLOPs", "latency", "both"],
)
def test_where_none_fits_it_says_how_far_the_nearest_is(budget, sentence):
    frame = trials()
    found = answer(frame, Confidence(frame), budget)
    assert found.best is None and sentence in found.refusal


def test_a_latency_that_nobody_measured_is_no_answer():
    frame = trials(latency=False)
    found = answer(frame, Confidence(frame), Budget(latency_ms=1))
    assert found.best is None and "no latency was measured" in found.refusal
    assert answer(frame, Confidence(frame), Budget(flops=1e9)).best == "large"
