"""What the keys of a trial's stages depend on, and settings that survive a round trip."""

import dataclasses
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tyro

from easrec.data.sequences import SplitData, leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.saving import load_network
from easrec.nas.controllers import TemperatureSchedule
from easrec.nas.resources import network_flops, scoring_flops
from easrec.nas.search import SearchConfig
from easrec.retrain import RetrainConfig
from sweeps.config import SweepConfig, option
from sweeps.plan import build_trials, extremes_first, preset_of
from sweeps.presets import PRESETS, quick
from sweeps.records import failed_record, failure, flatten, trial_record
from sweeps.store import Store, StoredFailureError
from sweeps.trial import TrialConfig, run_trial, warm_stage

ARCHITECTURE = Architecture(32, 128, 1, 4)


def a_trial() -> TrialConfig:
    preset = quick()
    return TrialConfig(
        space=preset.space,
        search=preset.search,
        retrain=preset.retrain,
        transfer_from="warm",
        data_checksum="data",
        code_version="code",
        device="cpu",
        threads=1,
        warmup_threads=2,
    )


def keys(trial: TrialConfig) -> dict[str, str]:
    return {
        "warm": trial.warm_key,
        "search": trial.search_key,
        "retrain": trial.retrain_key(ARCHITECTURE),
        "trial": trial.trial_id,
    }


def search(**changes: object) -> Callable[[TrialConfig], TrialConfig]:
    return lambda trial: dataclasses.replace(
        trial,
        search=dataclasses.replace(trial.search, **changes),  # type: ignore[arg-type]
    )


def retraining(**changes: object) -> Callable[[TrialConfig], TrialConfig]:
    return lambda trial: dataclasses.replace(
        trial,
        retrain=dataclasses.replace(trial.retrain, **changes),  # type: ignore[arg-type]
    )


def other(**changes: object) -> Callable[[TrialConfig], TrialConfig]:
    return lambda trial: dataclasses.replace(trial, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        # The retraining is shared by tradeoffs and by whatever else only the controllers see.
        (search(tradeoff=3.0), {"search", "trial"}),
        (search(controller_learning_rate=0.5), {"search", "trial"}),
        (search(temperature=TemperatureSchedule(floor=0.5)), {"search", "trial"}),
        (search(search_epochs=7), {"search", "trial"}),
        (search(warmup_epochs=7), {"warm", "search", "retrain", "trial"}),
        (search(seed=1), {"warm", "search", "retrain", "trial"}),
        (search(batch_size=64), {"warm", "search", "retrain", "trial"}),
        (retraining(patience=3), {"retrain", "trial"}),
        (other(threads=2), {"search", "retrain", "trial"}),
        (other(warmup_threads=1), {"warm", "search", "retrain", "trial"}),
        (other(data_checksum="else"), {"warm", "search", "retrain", "trial"}),
        (other(code_version="else"), {"warm", "search", "retrain", "trial"}),
        (other(device="cuda"), {"warm", "search", "retrain", "trial"}),
        (other(transfer_from="fresh"), {"retrain", "trial"}),
    ],
)
def test_a_setting_changes_the_keys_of_what_depends_on_it_alone(
    change: Callable[[TrialConfig], TrialConfig], changed: set[str]
) -> None:
    before, after = keys(a_trial()), keys(change(a_trial()))
    assert {name for name in before if before[name] != after[name]} == changed


def test_retraining_from_searched_weights_is_not_shared_between_tradeoffs() -> None:
    trial = dataclasses.replace(a_trial(), transfer_from="searched")
    elsewhere = search(tradeoff=3.0)(trial)
    assert trial.retrain_key(ARCHITECTURE) != elsewhere.retrain_key(ARCHITECTURE)


def test_each_architecture_has_its_own_retraining() -> None:
    deeper = dataclasses.replace(ARCHITECTURE, num_layers=2)
    assert a_trial().retrain_key(ARCHITECTURE) != a_trial().retrain_key(deeper)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_fits_together(name: str) -> None:
    preset = PRESETS[name]()
    assert preset.search.max_length == preset.retrain.max_length
    assert len(preset.space) == 3
    assert len(set(preset.tradeoffs)) == len(preset.tradeoffs) > 1


def test_the_paper_preset_is_table_ii() -> None:
    preset = PRESETS["paper"]()
    widths = [preset.space.sizes(k) for k in range(3)]
    assert widths == [(128, 256), (96, 192), (64, 128)]
    assert preset.space.attention == "linear_bidirectional"
    assert (preset.search.batch_size, preset.retrain.batch_size) == (1024, 2048)
    assert (preset.search.max_length, preset.search.warmup_epochs) == (200, 0)
    temperatures = [preset.search.temperature.at(t, planned_steps=10) for t in (0, 100, 10**6)]
    assert temperatures == pytest.approx([1.0, 0.995, 0.01])


def test_options_override_the_preset_in_search_and_retraining() -> None:
    config = SweepConfig(max_length=20, batch_size=64, retrain_epochs=3, hidden_size=32, tradeoffs=(1.0,))
    preset = preset_of(config)
    assert (preset.search.max_length, preset.retrain.max_length) == (20, 20)
    assert (preset.search.batch_size, preset.retrain.batch_size) == (64, 64)
    assert preset.retrain.max_epochs == 3
    assert preset.space.hidden_size == 32
    assert preset.tradeoffs == (1.0,)
    assert preset_of(SweepConfig()) == quick()


def test_a_sweep_has_one_trial_per_tradeoff_and_seed_and_one_warm_up_per_seed() -> None:
    data = leave_one_out(synthetic_interactions(20, 40, 8, seed=0))
    config = SweepConfig(tradeoffs=(0.0, 0.1, 1.0), seeds=2, seed=5)
    trials = build_trials(config, preset_of(config), data, device="cpu", code_version="x")
    assert [(trial.tradeoff, trial.seed) for trial in trials] == [
        (tradeoff, seed) for tradeoff in (0.0, 1.0, 0.1) for seed in (5, 6)
    ]
    assert {trial.retrain.seed for trial in trials} == {5, 6}
    assert len({trial.warm_key for trial in trials}) == 2
    assert len({trial.trial_id for trial in trials}) == 6


def test_extremes_first_keeps_every_tradeoff() -> None:
    grid = [0.0, 0.03, 0.1, 0.3, 1.0, 3.0]
    assert extremes_first(grid) == [0.0, 3.0, 0.03, 1.0, 0.1, 0.3]


def test_the_command_of_a_config_gives_the_config_back() -> None:
    config = SweepConfig(
        data=Path("my log.csv"),
        tradeoffs=(0.0, 0.1234567, 3.0),
        seeds=3,
        output=Path("/somewhere/runs"),
        resume=True,
        preset="smoke",
        hidden_intensities=(0.0, 0.5, 0.75),
        gate_layers=1,
        gpus_per_trial=0.5,
    )
    words = shlex.split(config.command())
    assert words[0] == sys.executable
    assert Path(words[1]).is_absolute()
    parsed = tyro.cli(SweepConfig, args=words[2:], config=(tyro.conf.FlagCreatePairsOff,))
    assert parsed == config


def test_settings_that_change_no_result_may_differ_on_resume() -> None:
    first = SweepConfig(output=Path("a"), ray_address="local")
    second = SweepConfig(output=Path("a"), ray_address="auto", resume=True)
    assert first.result_settings() == second.result_settings()
    assert first.result_settings() != SweepConfig(seeds=2).result_settings()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tradeoffs": (0.1, -1.0)}, "--tradeoffs must be finite numbers of at least 0, got -1"),
        ({"tradeoffs": (0.1, float("nan"))}, "got nan"),
        ({"tradeoffs": (0.1, 0.1)}, "0.1 twice"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"cpus_per_trial": 0}, "--cpus-per-trial must be at least 1"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"gpus_per_trial": 1.5}, "whole number, got 1.5"),
        ({"resume": True}, "--resume needs --output"),
        ({"dataset": "other", "data": Path("x.csv")}, "either --dataset or --data"),
    ],
)
def test_a_bad_option_is_refused_by_name_and_value(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SweepConfig(**fields).check()  # type: ignore[arg-type]


def test_flattened_settings_are_values_that_mlflow_takes() -> None:
    flat = flatten({"search": quick().search.to_dict(), "space": quick().space.to_dict()})
    assert flat["search.temperature.kind"] == "linear"
    assert flat["search.max_flops"] == "none"
    assert flat["space.hidden_intensities"] == "[0.0, 0.5, 0.75]"
    assert all(isinstance(value, str | int | float | bool) for value in flat.values())
    assert option("latency_threads") == "--latency-threads"


@pytest.fixture(scope="module")
def tiny_data() -> SplitData:
    return leave_one_out(synthetic_interactions(60, 40, 8, seed=0))


def tiny_trial(data: SplitData, tradeoff: float, **search_changes: object) -> TrialConfig:
    return dataclasses.replace(
        a_trial(),
        space=CandidateSpace(8, 16, 2, 2, (0.0, 0.5), (0.0, 0.5)),
        search=SearchConfig(
            tradeoff=tradeoff,
            max_length=8,
            warmup_epochs=1,
            search_epochs=1,
            batch_size=4,
            **search_changes,  # type: ignore[arg-type]
        ),
        retrain=RetrainConfig(max_length=8, max_epochs=2, batch_size=4),
        data_checksum=data.checksum,
    )


def test_trials_of_one_architecture_share_a_retraining_and_its_figures(
    tmp_path: Path, tiny_data: SplitData
) -> None:
    store = Store(tmp_path)
    # So large that both searches end at the smallest network.
    trials = [tiny_trial(tiny_data, tradeoff) for tradeoff in (1e3, 1e4)]
    warm_stage(trials[0], tiny_data, store)
    records = []
    for trial in trials:
        run_trial(trial, tiny_data, store)
        record = trial_record(trial, tiny_data, store, settings={}, tags={"preset": "tiny"})
        assert record is not None
        records.append(record)
    first, second = records
    assert {kind.name: len(list(kind.iterdir())) for kind in tmp_path.iterdir()} == {
        "warm": 1,
        "search": 2,
        "retrain": 1,
    }
    assert first.trial_id != second.trial_id
    shared = set(first.metrics) - {"search_s"}
    assert {name: first.metrics[name] for name in shared} == {name: second.metrics[name] for name in shared}
    flops = network_flops(first.architecture, 8)
    assert first.metrics["flops"] == flops
    assert first.metrics["flops_total"] == flops + scoring_flops(first.architecture, 40)
    assert {f"{split}/{protocol}/ndcg_at_10" for split in ("valid", "test") for protocol in (
        "full", "unseen", "uni100", "pop100")} <= set(first.metrics)  # fmt: skip
    network = load_network(first.artifacts["weights.safetensors"].parent)
    assert network.architecture == first.architecture
    assert sum(p.numel() for p in network.parameters()) == first.metrics["params"]
    assert [step for step, _, _ in first.curves["search/resource"]] == [1]
    assert [step for step, _, _ in first.curves["retrain/loss"]] == [1, 2]
    assert {"warmup/loss", "search/temperature", "search/candidate_0_probability"} <= set(first.curves)
    assert all(rate > 0 for _, _, rate in first.curves["retrain/sequences_per_s"])


def test_a_record_is_the_same_whenever_it_is_made(tmp_path: Path, tiny_data: SplitData) -> None:
    store, trial = Store(tmp_path), tiny_trial(tiny_data, 0.1)
    assert trial_record(trial, tiny_data, store, settings={}, tags={}) is None
    warm_stage(trial, tiny_data, store)
    run_trial(trial, tiny_data, store)
    first = trial_record(trial, tiny_data, store, settings={}, tags={})
    run_trial(trial, tiny_data, store)  # reads what is there
    assert first == trial_record(trial, tiny_data, Store(tmp_path), settings={}, tags={})


def test_a_search_that_diverges_is_a_failed_trial_and_stays_one(tmp_path: Path, tiny_data: SplitData) -> None:
    store = Store(tmp_path)
    trial = tiny_trial(tiny_data, 0.1, accuracy_weight=1e300)
    warm_stage(trial, tiny_data, store)
    for _ in range(2):
        with pytest.raises(StoredFailureError, match="the loss is inf in step"):
            run_trial(trial, tiny_data, store)
    error = failure(trial, store)
    assert error is not None
    assert error.startswith("the loss is inf in step")
    assert trial_record(trial, tiny_data, store, settings={}, tags={}) is None
    record = failed_record(trial, error, store, settings={}, tags={}, now_ms=0)
    assert (record.tradeoff, record.error) == (0.1, error)
    assert 0 < record.start_ms <= record.end_ms


def test_searched_weights_are_where_a_retraining_of_the_papers_kind_begins(
    tmp_path: Path, tiny_data: SplitData
) -> None:
    figures = {}
    for transfer_from in ("warm", "searched", "fresh"):
        trial = dataclasses.replace(tiny_trial(tiny_data, 1e3), transfer_from=transfer_from)
        store = Store(tmp_path / transfer_from)
        warm_stage(trial, tiny_data, store)
        run_trial(trial, tiny_data, store)
        record = trial_record(trial, tiny_data, store, settings={}, tags={})
        assert record is not None
        figures[transfer_from] = record.curves["retrain/loss"][0][2]
    assert len(set(figures.values())) == 3
    assert figures["fresh"] > figures["searched"]
