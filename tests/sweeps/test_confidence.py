"""What the data tell apart: intervals against scipy and against resampling one user at a time."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from easrec.evaluation.protocols import evaluate
from easrec.models.saving import load_network
from sweeps.confidence import Confidence
from sweeps.configurations import configuration_records, configurations_frame
from sweeps.intervals import bootstrap
from sweeps.pareto import pareto_flags
from sweeps.source import SweepDirectory
from sweeps.user_ranks import RANKS, Gains, gains_of, rank_metrics, rank_table, read_gains, write_ranks

VALID = "valid/unseen/ndcg_at_10"


def gains(earned):
    earned = np.asarray(earned, dtype=np.float64)
    return Gains(np.arange(len(earned)), np.ones(len(earned)), earned)


def trials(rows):
    """A table of trials from (architecture, seed, accuracy, FLOPs)."""
    return pd.DataFrame(
        [
            {"trial_id": f"t{number}", "tradeoff": 0.1, "architecture_id": name, "seed": seed, VALID: value}
            | {"flops": flops, "latency_ms_p50": flops / 10}
            for number, (name, seed, value, flops) in enumerate(rows)
        ]
    )


def test_several_seeds_have_students_interval():
    values = [0.11, 0.13, 0.12]
    spread = Confidence(trials([("a", seed, value, 1.0) for seed, value in enumerate(values)])).spread("a")
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (spread.low, spread.high) == pytest.approx(expected)
    assert (spread.mean, spread.deviation) == pytest.approx((0.12, 0.01))
    assert (spread.method, spread.seeds) == ("seeds", (0, 1, 2))


def test_trials_that_share_a_retraining_count_once():
    once = Confidence(trials([("a", 0, 0.1, 1.0), ("a", 1, 0.2, 1.0)])).spread("a")
    shared = Confidence(trials([("a", 0, 0.1, 1.0)] * 3 + [("a", 1, 0.2, 1.0)])).spread("a")
    assert shared == once


def test_two_retrainings_of_one_seed_are_no_two_seeds():
    spread = Confidence(trials([("a", 0, 0.1, 1.0), ("a", 0, 0.2, 1.0)])).spread("a")
    assert spread.mean == pytest.approx(0.15)
    assert spread.method == "none" and math.isnan(spread.low) and math.isnan(spread.deviation)


def test_one_seed_has_the_bootstrap_of_the_model_card():
    ranks = np.random.default_rng(1).geometric(0.1, size=300)
    table = pd.DataFrame({"split": "valid", "user": np.arange(300), "unseen": pd.array(ranks, dtype="Int32")})
    found = gains_of(table, VALID)
    assert found is not None
    spread = Confidence(trials([("a", 0, found.mean, 1.0)]), {"t0": found}).spread("a")
    expected = bootstrap(ranks, np.arange(300))["ndcg_at_10"]
    assert spread.mean == pytest.approx(expected.value)
    assert (spread.low, spread.high) == pytest.approx((expected.low, expected.high))
    assert spread.method == "users"


def test_a_comparison_pairs_users_and_averages_seeds():
    generator = np.random.default_rng(0)
    hard = generator.random(200)  # users differ far more than the networks do
    first = [hard + 0.02 + generator.normal(0, 0.02, 200) for _ in range(2)]
    second = [hard + generator.normal(0, 0.02, 200) for _ in range(2)]
    rows = [("a", seed, earned.mean(), 2.0) for seed, earned in enumerate(first)]
    rows += [("b", seed, earned.mean(), 1.0) for seed, earned in enumerate(second)]
    known = {f"t{number}": gains(earned) for number, earned in enumerate([*first, *second])}
    confidence = Confidence(trials(rows), known)
    found = confidence.compare("a", "b")
    differences = np.mean(first, axis=0) - np.mean(second, axis=0)
    drawn = generator.integers(0, 200, size=(4000, 200))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    assert found.difference == pytest.approx(differences.mean())
    assert abs(found.low - low) < 0.06 * (high - low) and abs(found.high - high) < 0.06 * (high - low)
    assert found.separated and found.method == "users" and found.num_seeds == 2
    back = confidence.compare("b", "a")
    assert back.separated and back.difference == pytest.approx(-found.difference)
    # The users alone, unpaired, would tell nothing apart.
    assert 2 * np.std(hard) / math.sqrt(200) > found.difference


def test_equal_networks_are_not_told_apart():
    earned = np.random.default_rng(0).random(50)
    confidence = Confidence(
        trials([("a", 0, earned.mean(), 2.0), ("b", 0, earned.mean() - 1e-9, 1.0)]),
        {"t0": gains(earned), "t1": gains(earned)},
    )
    assert not confidence.compare("a", "b").separated
    assert not confidence.standings("flops")["a"].decided


def test_without_ranks_equal_seeds_are_paired():
    rows = [("a", 0, 0.20, 2.0), ("a", 1, 0.30, 2.0), ("a", 2, 0.25, 2.0)]
    rows += [("b", 0, 0.19, 1.0), ("b", 1, 0.289, 1.0), ("b", 2, 0.241, 1.0), ("b", 3, 0.9, 1.0)]
    found = Confidence(trials(rows)).compare("a", "b")
    differences = [0.01, 0.011, 0.009]
    expected = stats.t.interval(0.95, 2, loc=np.mean(differences), scale=stats.sem(differences))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.difference == pytest.approx(0.01)
    assert (found.method, found.separated, found.num_seeds) == ("seeds", True, 3)


def test_without_ranks_and_seeds_in_common_nothing_is_known():
    found = Confidence(trials([("a", 0, 0.2, 2.0), ("b", 1, 0.1, 1.0), ("b", 2, 0.1, 1.0)])).compare("a", "b")
    assert found.method == "none" and not found.separated
    assert found.difference == pytest.approx(0.1)


def test_ranks_of_other_users_are_not_paired():
    confidence = Confidence(
        trials([("a", 0, 0.2, 2.0), ("b", 0, 0.1, 1.0)]), {"t0": gains([0.2] * 5), "t1": gains([0.1] * 6)}
    )
    assert confidence.compare("a", "b").method == "none"


def test_the_cheapest_of_the_front_is_there_whatever_its_accuracy():
    standings = Confidence(trials([("a", 0, 0.2, 2.0), ("b", 0, 0.1, 1.0), ("c", 0, 0.15, 3.0)])).standings(
        "flops"
    )
    assert list(standings) == ["b", "a", "c"]
    assert standings["b"].decided and standings["b"].rival is None and standings["b"].on_front
    assert standings["a"].on_front and standings["a"].rival == "b" and not standings["a"].decided
    assert not standings["c"].on_front and standings["c"].rival == "a"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.integers(0, 2), st.integers(1, 4), st.integers(1, 4)),
        min_size=1,
        max_size=12,
    )
)
def test_standings_agree_with_the_front(rows):
    costs = {name: float(cost) for name, _, _, cost in rows}
    frame = trials([(name, seed, value / 8, costs[name]) for name, seed, value, _ in rows])
    standings = Confidence(frame).standings("flops")
    assert {name for name, standing in standings.items() if standing.on_front} == set(
        frame.loc[pareto_flags(frame), "architecture_id"]
    )
    for name, standing in standings.items():
        if standing.rival is not None:
            assert costs[standing.rival] <= costs[name]
            assert standings[standing.rival].on_front


def test_a_retraining_keeps_its_ranks_and_its_figures_are_those_of_the_file(sweep):
    source = SweepDirectory(sweep.directory)
    for record in sweep.records:
        table = pd.read_parquet(record.artifacts[RANKS])
        figures = rank_metrics(table)
        model = load_network(record.artifacts["weights.safetensors"].parent)
        for split in ("valid", "test"):
            expected = evaluate(model.scores, source.data.split, split, max_length=10)
            for name, value in expected.items():
                assert record.metrics[f"{split}/{name}"] == figures[f"{split}/{name}"] == value
        found = read_gains(record.artifacts[RANKS], VALID)
        assert found is not None and found.mean == pytest.approx(record.metrics[VALID])
        assert len(found.users) == source.data.split.num_users


def test_a_protocol_that_one_split_does_not_allow_is_missing_there(tmp_path, sweep):
    data = SweepDirectory(sweep.directory).data.split
    model = load_network(sweep.records[0].artifacts["weights.safetensors"].parent)
    table = rank_table(model.scores, data, max_length=10)
    table.loc[table["split"] == "test", "pop100"] = pd.NA
    write_ranks(table, tmp_path / RANKS)
    assert read_gains(tmp_path / RANKS, "test/pop100/ndcg_at_10") is None
    assert read_gains(tmp_path / RANKS, "valid/pop100/ndcg_at_10") is not None
    assert not any(name.startswith("test/pop100") for name in rank_metrics(pd.read_parquet(tmp_path / RANKS)))
    assert [path.name for path in tmp_path.iterdir()] == [RANKS]


def test_users_with_several_questions_are_drawn_whole():
    table = pd.DataFrame({"split": "valid", "user": [3, 3, 5], "unseen": pd.array([1, 30, 3], dtype="Int32")})
    found = gains_of(table, VALID)
    assert found is not None
    assert found.users.tolist() == [3, 5] and found.questions.tolist() == [2, 1]
    assert found.earned.tolist() == [1.0, 1 / np.log2(4)]
    assert found.mean == pytest.approx((1 + 0 + 0.5) / 3)


def test_a_configuration_is_one_row_whatever_led_to_it(sweep):
    frame = pd.read_parquet(sweep.directory / "results.parquet")
    frame = frame[frame["status"] == "finished"]
    confidence = Confidence.of_records(frame, sweep.records)
    table = configurations_frame(frame, confidence).set_index("architecture_id")
    assert set(table.index) == set(frame["architecture_id"])
    assert table["flops"].is_monotonic_increasing
    for name, own in frame.groupby("architecture_id"):
        distinct = own.drop_duplicates(["seed", VALID])
        assert table.loc[name, VALID] == pytest.approx(distinct[VALID].mean())
        assert table.loc[name, "num_seeds"] == own["seed"].nunique()
        assert table.loc[name, "pareto"] == own["pareto"].iloc[0]
        assert table.loc[name, "flops"] == own["flops"].iloc[0]
        assert table.loc[name, f"{VALID}_low"] <= table.loc[name, VALID] <= table.loc[name, f"{VALID}_high"]
        expected = "seeds" if own["seed"].nunique() > 1 else "users"
        assert table.loc[name, "interval_over"] == expected
    stored = pd.read_parquet(sweep.directory / "configurations.parquet").set_index("architecture_id")
    pd.testing.assert_frame_equal(stored, table, check_dtype=False)


def test_a_sweep_of_one_seed_has_no_runs_of_configurations(sweep):
    frame = pd.read_parquet(sweep.directory / "results.parquet")
    frame = frame[frame["status"] == "finished"]
    table = configurations_frame(frame, Confidence.of_records(frame, sweep.records))
    records = configuration_records(table, sweep.records)
    assert len(records) == len(table)
    for record in records:
        row = table.set_index("architecture_id").loc[record.architecture_id]
        assert (record.metrics["flops"], record.metrics[VALID]) == (row["flops"], row[VALID])
        assert all(math.isfinite(value) for value in record.metrics.values())
    alone = [record for record in sweep.records if record.seed == 0]
    own = frame[frame["seed"] == 0]
    assert configuration_records(configurations_frame(own, Confidence(own)), alone) == []
    assert dataclasses.is_dataclass(records[0])
