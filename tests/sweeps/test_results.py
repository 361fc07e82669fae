import dataclasses
import math

import pandas as pd
import pytest

from easrec.models.architecture import Architecture
from sweeps.results import TrialRecord, results_frame

SMALL, LARGE = Architecture(16, 64, 1, 4), Architecture(64, 256, 4, 4)
VALID = "valid/unseen/ndcg_at_10"


def record(trial_id="t", *, tradeoff=0.1, seed=0, architecture=SMALL, **metrics):
    return TrialRecord(
        trial_id=trial_id,
        tradeoff=tradeoff,
        seed=seed,
        architecture=architecture,
        params={"tradeoff": tradeoff},
        metrics={VALID: 0.1, "flops": 1e6, **metrics},
        start_ms=1,
        end_ms=2,
    )


def test_rows_follow_seed_and_tradeoff_whatever_order_trials_finish_in():
    records = [
        record("a", tradeoff=1, seed=0),
        record("b", tradeoff=0.3, seed=1),
        record("c", tradeoff=0, seed=0),
    ]
    assert results_frame(records)["trial_id"].tolist() == ["c", "a", "b"]
    assert results_frame(records).equals(results_frame(records[::-1]))


def test_a_row_says_what_the_trial_was_and_found():
    row = results_frame([record(architecture=LARGE, seed=3, params=12.0)]).iloc[0].to_dict()
    expected = {
        "trial_id": "t",
        "tradeoff": 0.1,
        "seed": 3,
        "architecture_id": LARGE.architecture_id,
        **dataclasses.asdict(LARGE),
        VALID: 0.1,
        "flops": 1e6,
        "params": 12.0,
        "pareto": True,
        "pareto_latency": False,
    }
    assert row == expected


def test_a_metric_that_one_trial_lacks_is_nan():
    frame = results_frame([record("a", latency_ms_p50=1.0), record("b", seed=1)])
    assert frame["latency_ms_p50"].iloc[0] == 1.0 and math.isnan(frame["latency_ms_p50"].iloc[1])
    assert frame["pareto_latency"].tolist() == [True, False]


def test_both_fronts_are_flagged():
    # The large network is more accurate; it costs more FLOPs but is no slower.
    large = record("a", architecture=LARGE, latency_ms_p50=1.0, flops=2e6)
    large = dataclasses.replace(large, metrics={**large.metrics, VALID: 0.2})
    frame = results_frame([large, record("b", tradeoff=1, latency_ms_p50=1.0)])
    assert frame["pareto"].tolist() == [True, True]
    assert frame["pareto_latency"].tolist() == [True, False]


def test_the_table_survives_parquet(tmp_path):
    frame = results_frame([record("a", latency_ms_p50=1.0), record("b", seed=1)])
    frame.to_parquet(tmp_path / "results.parquet")
    read = pd.read_parquet(tmp_path / "results.parquet")
    assert read.equals(frame)


def test_a_table_of_nothing_or_of_one_trial_twice_is_refused():
    with pytest.raises(ValueError, match="at least one trial"):
        results_frame([])
    with pytest.raises(ValueError, match="same trial_id"):
        results_frame([record("a"), record("a", seed=1)])


def test_a_record_refuses_to_end_before_it_starts():
    with pytest.raises(ValueError, match=r"start_ms=1, self.end_ms=0"):
        dataclasses.replace(record(), end_ms=0)


def test_a_record_refuses_a_name_for_both_a_metric_and_a_curve():
    with pytest.raises(ValueError, match="flops is both"):
        dataclasses.replace(record(), curves={"flops": [(1, 1, 2.0)]})
