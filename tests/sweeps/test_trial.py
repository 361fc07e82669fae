"""What the keys of a trial's stages depend on, and settings that survive a round trip."""

import dataclasses
import json
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
from sweeps import trial as trial_module
from sweeps.config import SweepConfig, option
from sweeps.method_options import MethodOptions
from sweeps.plan import build_trials, extremes_first, preset_of
from sweeps.presets import PRESETS, quick
from sweeps.records import failed_record, failure, flatten, trial_record
from sweeps.store import Store, StoredFailureError, code_version, training_version
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


def space(**changes: object) -> Callable[[TrialConfig], TrialConfig]:
    return lambda trial: dataclasses.replace(
        trial,
        space=dataclasses.replace(trial.space, **changes),  # type: ignore[arg-type]
    )


def retraining(**changes: object) -> Callable[[TrialConfig], TrialConfig]:
    return lambda trial: dataclasses.replace(
        trial,
        retrain=dataclasses.replace(trial.retrain, **changes),  # type: ignore[arg-type]
    )


def other(**changes: object) -> Callable[[TrialConfig], TrialConfig]:
    return lambda trial: dataclasses.replace(trial, **changes)  # type: ignore[arg-type]


def test_a_new_way_of_measuring_leaves_what_was_trained() -> None:
    def trial(sources: str) -> TrialConfig:
        return other(code_version=f"0.1.0-{sources}-torch2.13.0+cpu")(a_trial())

    before = keys(trial(f"{'a' * 16}.{'b' * 8}"))
    assert keys(trial(f"{'a' * 16}.{'c' * 8}")) == before
    assert keys(trial(f"{'c' * 16}.{'b' * 8}")).items().isdisjoint(before.items())
    # What the sources make is of this form.
    assert training_version(code_version()) != code_version()
    assert code_version().startswith(training_version(code_version()).split("-torch")[0] + ".")


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        # The retraining is shared by tradeoffs and by whatever else only the controllers see.
        (search(tradeoff=3.0), {"search", "trial"}),
        (search(controller_learning_rate=0.5), {"search", "trial"}),
        (search(temperature=TemperatureSchedule(floor=0.5)), {"search", "trial"}),
        (search(search_epochs=7), {"search", "trial"}),
        (search(warmup_epochs=7), {"warm", "search", "retrain", "trial"}),
        (search(warmup_paths="sandwich"), {"warm", "search", "retrain", "trial"}),
        (search(seed=1), {"warm", "search", "retrain", "trial"}),
        (search(batch_size=64), {"warm", "search", "retrain", "trial"}),
        (search(resource="latency"), {"search", "trial"}),
        (search(depth_cost="hard"), {"search", "trial"}),
        (search(max_flops=10**9), {"search", "trial"}),
        (search(stop_on="ndcg"), {"search", "trial"}),
        (search(controller_interval=3), {"search", "trial"}),
        (search(search_weights="train"), {"search", "trial"}),
        (search(controller_data="train_split"), {"warm", "search", "retrain", "trial"}),
        (search(dropout=0.1), {"warm", "search", "retrain", "trial"}),
        (search(loss="sampled"), {"warm", "search", "retrain", "trial"}),
        (search(micro_batch_size=8), {"warm", "search", "retrain", "trial"}),
        (space(weights="shared"), {"warm", "search", "retrain", "trial"}),
        (space(pairing="product"), {"warm", "search", "retrain", "trial"}),
        (retraining(learning_rate=0.1), {"retrain", "trial"}),
        (retraining(dropout=0.1), {"retrain", "trial"}),
        (retraining(patience=3), {"retrain", "trial"}),
        (other(threads=2), {"search", "retrain", "trial"}),
        (other(warmup_threads=1), {"warm", "search", "retrain", "trial"}),
        (other(data_checksum="else"), {"warm", "search", "retrain", "trial"}),
        (other(code_version="else"), {"warm", "search", "retrain", "trial"}),
        (other(device="cuda"), {"warm", "search", "retrain", "trial"}),
        (other(transfer_from="fresh"), {"retrain", "trial"}),
        (other(independent=True), {"warm", "search", "retrain", "trial"}),
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


OPTIONS: dict[str, tuple[object, list[str]]] = {
    "hidden_size": (32, ["space.hidden_size"]),
    "inner_size": (64, ["space.inner_size"]),
    "num_layers": (2, ["space.num_layers"]),
    "num_heads": (2, ["space.num_heads"]),
    "hidden_intensities": ((0.0, 0.5, 0.875), ["space.hidden_intensities"]),
    "inner_intensities": ((0.0, 0.5, 0.875), ["space.inner_intensities"]),
    "pairing": ("product", ["space.pairing"]),
    "weights": ("shared", ["space.weights"]),
    "attention": ("softmax", ["space.attention"]),
    "key_norm": ("row", ["space.key_norm"]),
    "gate_layers": (0, ["space.gate_layers"]),
    "max_length": (20, ["search.max_length", "retrain.max_length"]),
    "batch_size": (16, ["search.batch_size", "retrain.batch_size"]),
    "micro_batch_size": (8, ["search.micro_batch_size", "retrain.micro_batch_size"]),
    "precision": ("bfloat16", ["search.precision", "retrain.precision"]),
    "compile": (True, ["search.compile", "retrain.compile"]),
    "dropout": (0.1, ["search.dropout", "retrain.dropout"]),
    "loss": ("sampled", ["search.loss", "retrain.loss"]),
    "search_learning_rate": (0.02, ["search.learning_rate"]),
    "retrain_learning_rate": (0.03, ["retrain.learning_rate"]),
    "warmup_epochs": (7, ["search.warmup_epochs"]),
    "warmup_paths": ("sandwich", ["search.warmup_paths"]),
    "search_epochs": (7, ["search.search_epochs"]),
    "stop_on": ("ndcg", ["search.stop_on"]),
    "stable_epochs": (4, ["search.stable_epochs"]),
    "retrain_epochs": (8, ["retrain.max_epochs"]),
    "patience": (4, ["retrain.patience"]),
    "accuracy_weight": (0.0, ["search.accuracy_weight"]),
    "controller_data": ("train_split", ["search.controller_data"]),
    "controller_learning_rate": (0.5, ["search.controller_learning_rate"]),
    "controller_interval": (3, ["search.controller_interval"]),
    "search_weights": ("train", ["search.search_weights"]),
    "negligible_weight": (0.0, ["search.negligible_weight"]),
    "resource": ("params", ["search.resource"]),
    "depth_cost": ("hard", ["search.depth_cost"]),
    "depth_refresh": ("interval", ["search.depth_refresh"]),
    "cost_probabilities": ("sampled", ["search.cost_probabilities"]),
    "max_flops": (10**8, ["search.max_flops"]),
    "temperature_kind": ("cosine", ["search.temperature.kind"]),
    "temperature_start": (2.0, ["search.temperature.start"]),
    "temperature_floor": (0.2, ["search.temperature.floor"]),
    "temperature_fraction": (0.5, ["search.temperature.fraction"]),
    "temperature_rate": (0.01, ["search.temperature.rate"]),
    "transfer_from": ("fresh", ["transfer_from"]),
}
NEED_ANOTHER: dict[str, tuple[dict[str, object], object, list[str]]] = {
    "num_negatives": ({"loss": "sampled"}, 7, ["search.num_negatives", "retrain.num_negatives"]),
    "ndcg_patience": ({"stop_on": "ndcg"}, 3, ["search.ndcg_patience"]),
}


def changed_settings(before: SweepConfig, after: SweepConfig) -> dict[str, object]:
    """What the trials' parameters of two sweeps differ in, as MLflow gets them."""
    flat = []
    for config in (before, after):
        data = leave_one_out(synthetic_interactions(20, 40, 8, seed=0))
        trial = build_trials(config, preset_of(config), data, device="cpu", code_version="x")[0]
        record = failed_record(trial, "", Store("nowhere"), settings={}, tags={}, now_ms=0)
        flat.append(record.params)
    return {name: value for name, value in flat[1].items() if flat[0][name] != value}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(MethodOptions)])
def test_every_option_of_the_method_changes_its_setting_and_nothing_else(name: str) -> None:
    beside: dict[str, object] = {}
    if name in NEED_ANOTHER:
        beside, value, settings = NEED_ANOTHER[name]
        with pytest.raises(InputError, match=f"{option(name)} changes nothing with --"):
            preset_of(SweepConfig(**{name: value}))  # type: ignore[arg-type]
    else:
        value, settings = OPTIONS[name]
    before = SweepConfig(**beside)  # type: ignore[arg-type]
    after = SweepConfig(**beside, **{name: value})  # type: ignore[arg-type]
    changed = changed_settings(before, after)
    if name == "weights":
        assert changed.pop("search.warmup_paths") == "sandwich"
    assert sorted(changed) == sorted(settings)
    shown = json.dumps(list(value)) if isinstance(value, tuple) else value
    assert set(changed.values()) == {shown}


def test_shared_weights_have_their_own_warm_up_unless_the_user_says_which() -> None:
    def kind(**options: object) -> str:
        return preset_of(SweepConfig(**options)).search.warmup_paths  # type: ignore[arg-type]

    assert kind() == "mixture"
    assert kind(weights="shared") == "sandwich"
    assert kind(weights="shared", warmup_paths="mixture") == "mixture"
    assert kind(warmup_paths="sandwich") == "sandwich"


def test_another_way_of_falling_replaces_the_presets_rate() -> None:
    def schedule(**options: object) -> TemperatureSchedule:
        return preset_of(SweepConfig(preset="paper", **options)).search.temperature  # type: ignore[arg-type]

    assert schedule().rate == 0.00005
    assert schedule(temperature_fraction=0.5) == TemperatureSchedule(floor=0.01, fraction=0.5)
    assert schedule(temperature_kind="cosine") == TemperatureSchedule(kind="cosine", floor=0.01)
    assert schedule(temperature_kind="exponential").rate == 0.00005
    with pytest.raises(InputError, match="--temperature-rate changes nothing with --temperature-kind cosine"):
        schedule(temperature_kind="cosine", temperature_rate=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "softmax", "key_norm": "row"}, "--key-norm changes nothing with --attention softmax"),
        ({"stop_on": "ndcg", "stable_epochs": 2}, "--stable-epochs changes nothing with --stop-on ndcg"),
        ({"temperature_kind": "constant", "temperature_floor": 0.2}, "--temperature-floor changes nothing"),
        ({"max_flops": 1000}, "--max-flops 1000 leaves no network: the smallest .* needs 499200 FLOPs"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        preset_of(SweepConfig(**options))  # type: ignore[arg-type]


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


def test_an_independent_sweep_shares_nothing_between_tradeoffs() -> None:
    data = leave_one_out(synthetic_interactions(20, 40, 8, seed=0))
    config = SweepConfig(tradeoffs=(0.0, 1.0), seeds=2, independent=True)
    trials = build_trials(config, preset_of(config), data, device="cpu", code_version="x")
    assert {trial.transfer_from for trial in trials} == {"searched"}
    assert len({trial.warm_key for trial in trials}) == 4
    assert len({trial.retrain_key(ARCHITECTURE) for trial in trials}) == 4
    with pytest.raises(InputError, match=r"--independent retrains .* so --transfer-from warm does not go"):
        SweepConfig(independent=True, transfer_from="warm").check()


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
        ({"asked": "first"}, "--asked belongs to --split temporal"),
        ({"split": "temporal", "boundaries": (3.0, 3.0)}, "two ascending times, got 3 and 3"),
        ({"split": "temporal", "valid_share": 0.5, "test_share": 0.5}, "below 1 together, got 0.5 and 0.5"),
        (
            {"split": "temporal", "boundaries": (1.0, 3.0), "test_share": 0.1},
            "either --boundaries or --test-share",
        ),
        ({"temperature_fraction": 0.5, "temperature_rate": 0.1}, "either --temperature-fraction or"),
        ({"retrain_learning_rate": 0.0}, "--retrain-learning-rate must be above 0, got 0"),
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


def test_searches_by_latency_share_one_table_and_record_it(
    tmp_path: Path, tiny_data: SplitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[object, int]] = []

    def measure(space: CandidateSpace, max_length: int, *, device: str) -> tuple[float, ...]:
        measured.append((space, max_length))
        return (1.0, 3.0)  # the narrow one is the slow one

    monkeypatch.setattr(trial_module, "layer_latencies_ms", measure)
    store = Store(tmp_path)
    settings = {"resource": "latency", "accuracy_weight": 0.0, "controller_learning_rate": 0.2}
    trials = [tiny_trial(tiny_data, tradeoff, **settings) for tradeoff in (10.0, 20.0)]
    by_flops = tiny_trial(tiny_data, 10.0, **(settings | {"resource": "flops"}))
    warm_stage(trials[0], tiny_data, store)
    for trial in [*trials, by_flops]:
        run_trial(trial, tiny_data, store)
    assert measured == [(trials[0].space, 8)]
    first, second, other = (
        trial_record(trial, tiny_data, store, settings={}, tags={}) for trial in [*trials, by_flops]
    )
    assert first is not None and second is not None and other is not None
    assert first.params["layer_latencies_ms"] == second.params["layer_latencies_ms"] == "[1.0, 3.0]"
    assert "layer_latencies_ms" not in other.params
    assert (first.architecture.hidden_size, other.architecture.hidden_size) == (8, 4)
    # Another length or another number of threads is another table; a seed or a tradeoff is not.
    key = trials[0].latency_key
    assert {trials[1].latency_key, search(seed=3)(trials[0]).latency_key, by_flops.latency_key} == {key}
    assert other_key(trials[0], threads=2) != key
    assert search(max_length=9)(trials[0]).latency_key != key


def other_key(trial: TrialConfig, **changes: object) -> str:
    return dataclasses.replace(trial, **changes).latency_key  # type: ignore[arg-type]
