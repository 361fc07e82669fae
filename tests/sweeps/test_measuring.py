"""Where latency is measured: the node that is chosen, what is refused, and what is kept of the place."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import sweeps.sweep as sweep_module
import sweeps.trial as trial_module
from easrec.data.sequences import leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from easrec.evaluation.profile import ProfileConfig
from easrec.models.architecture import Architecture
from sweeps.compare import Comparison
from sweeps.compare_config import CompareConfig
from sweeps.compare_methods import contestants_of
from sweeps.config import SweepConfig
from sweeps.hardware import cpu_name, hardware
from sweeps.measuring import reserved_node
from sweeps.records import MEASURED
from sweeps.store import Store
from sweeps.trainable import measure_key
from sweeps.trial import TrialConfig, latency_stage
from tests.sweeps.test_sweep import calls, config_of, mlflow_tags, run  # noqa: F401
from tests.sweeps.test_trainable import a_trial


def node(name: str, **resources: float) -> dict[str, Any]:
    return {"NodeID": name * 56, "NodeManagerAddress": name, "Resources": resources}


NODES = [
    node("a", CPU=64.0),
    node("b", CPU=8.0, latency=1.0),
    node("c", CPU=4.0, GPU=2.0, latency=1.0, **{"accelerator_type:A100": 1.0}),
    node("d", CPU=16.0, GPU=8.0, **{"accelerator_type:H100": 1.0}),
]


@pytest.mark.parametrize(
    ("measure_on", "chosen", "cpus", "gpus"),
    [("cpu", "b", 8, 0), ("cuda", "c", 4, 2), ("A100", "c", 4, 2), ("accelerator_type:A100", "c", 4, 2)],
)
def test_all_of_a_marked_node_is_asked_for(measure_on: str, chosen: str, cpus: int, gpus: int) -> None:
    place = reserved_node(measure_on, 1, NODES)
    strategy = place.options["scheduling_strategy"]
    assert isinstance(strategy, NodeAffinitySchedulingStrategy)
    assert (strategy.node_id, strategy.soft) == (chosen * 56, False)
    assert (place.options["num_cpus"], place.options["num_gpus"]) == (cpus, gpus)
    assert place.options["resources"] == {"latency": 1.0}
    assert place.described == f" on {'cpu' if measure_on == 'cpu' else 'cuda'} of {chosen}"


@pytest.mark.parametrize(
    ("measure_on", "threads", "nodes", "sentence"),
    [
        ("cpu", 1, NODES[:1], "needs a node with the Ray resource 'latency', and the cluster has none"),
        ("H100", 1, NODES, r"has accelerator_type:H100; they have CPU, GPU, accelerator_type:A100"),
        ("cuda", 1, NODES[:2], "has GPU; they have CPU"),
        ("cuda", 5, NODES, "--latency-threads 5 is more than the 4 CPUs of the node c"),
    ],
)
def test_what_the_cluster_lacks_is_refused(
    measure_on: str, threads: int, nodes: list[dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        reserved_node(measure_on, threads, nodes)


def test_a_name_that_can_be_no_device_is_refused() -> None:
    with pytest.raises(InputError, match="--measure-on must be cpu, cuda or a type of accelerator"):
        SweepConfig(measure_on="my gpu").check()


def by_latency(trial: TrialConfig) -> TrialConfig:
    return dataclasses.replace(trial, search=dataclasses.replace(trial.search, resource="latency"))


def test_what_is_measured_elsewhere_has_keys_of_its_own_and_all_else_keeps_its_key() -> None:
    trial = a_trial()
    settings, architecture = ProfileConfig(), Architecture(32, 128, 1, 4)
    on_gpu = dataclasses.replace(trial, measure_on="cuda")
    on_a100 = dataclasses.replace(trial, measure_on="A100")
    assert [t.measure_device for t in (trial, on_gpu, on_a100)] == ["cpu", "cuda", "cuda"]
    assert len({measure_key(t, architecture, settings) for t in (trial, on_gpu, on_a100)}) == 3
    assert len({t.latency_key for t in (trial, on_gpu, on_a100)}) == 3
    # FLOPs do not depend on where latency is measured, so neither do searches by them.
    assert len({t.search_key for t in (trial, on_gpu, on_a100)}) == 1
    assert len({by_latency(t).search_key for t in (trial, on_gpu, on_a100)}) == 3
    assert len({t.warm_key for t in (trial, on_gpu, on_a100)}) == 1


def test_layers_are_timed_on_the_device_that_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def timed(space: Any, max_length: int, *, device: str) -> tuple[float, ...]:
        asked.append(device)
        return (1.0,)

    monkeypatch.setattr(trial_module, "layer_latencies_ms", timed)
    monkeypatch.setattr(trial_module, "hardware", lambda device: {"device": device})
    trial = dataclasses.replace(a_trial(), device="cuda", measure_on="cpu")
    assert latency_stage(trial, Store(tmp_path)) == (1.0,)
    assert latency_stage(dataclasses.replace(trial, measure_on="A100"), Store(tmp_path)) == (1.0,)
    assert asked == ["cpu", "cuda"]


def test_a_search_does_not_measure_layers_where_it_happens_to_run(tmp_path: Path) -> None:
    trial = by_latency(dataclasses.replace(a_trial(), measure_on="A100"))
    with pytest.raises(RuntimeError, match="the layers have not been measured on A100"):
        trial_module._search_config(trial, Store(tmp_path))


def test_hardware_is_named() -> None:
    found = hardware("cpu")
    assert found["device"] == "cpu" and found["host"]
    assert found["cpu"] == cpu_name() != ""


def test_contestants_without_their_layers_are_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise RuntimeError("the node died")

    data = leave_one_out(synthetic_interactions(40, 30, 8, seed=0))
    config = CompareConfig(
        preset="smoke",
        methods=("easrec", "proxylessnas", "sasrec"),
        resource="latency",
        measure_on="cpu",
    )
    comparison = object.__new__(Comparison)
    comparison.config, comparison.errors = config, {}
    comparison.contestants = contestants_of(
        config, Comparison.preset_for(config), data, None, device="cpu", code_version="x"
    )
    comparison.store = Store(Path("nowhere"))
    monkeypatch.setattr(sweep_module, "measure_layers", gone)
    monkeypatch.setattr(Comparison, "_measuring_place", gone)
    comparison._measure_layers([trial for _, trial in comparison.searches()], Any)
    by_latency = {one.method: comparison.errors.get(one.trial_id) for one in comparison.contestants}
    why = "the layers could not be measured on cpu: the node died"
    assert by_latency == {"easrec": why, "proxylessnas": why, "sasrec": None}


@pytest.mark.slow
def test_a_sweep_without_its_layers_trains_nothing_and_says_why(
    tmp_path: Path,
    calls: list[str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(trial: TrialConfig, store: Store, place: object) -> None:
        raise RuntimeError("the node died")

    def place(self: object, measure_on: str | None, threads: int) -> object:
        assert (measure_on, threads) == ("cpu", 1)
        return sweep_module.MeasuringPlace({}, " on cpu of node b")

    monkeypatch.setattr(sweep_module.Cluster, "measuring_place", place)
    layers = sweep_module.measure_layers
    monkeypatch.setattr(sweep_module, "measure_layers", gone)
    config = config_of(tmp_path, resource="latency", measure_on="cpu")
    status, text = run(config)
    assert status == 1 and "train" not in calls
    assert text.count("the layers could not be measured on cpu: the node died") == 2  # one for each trial

    # The node is back.
    monkeypatch.setattr(sweep_module, "measure_layers", layers)
    measured = dict.fromkeys(MEASURED, 1.0) | {"device": "cpu", "threads": 1, "host": "b", "cpu": "Z80"}
    monkeypatch.setattr(sweep_module, "measure_network", lambda *args: measured)
    status, text = run(SweepConfig(**{**vars(config), "resume": True}))
    assert status == 0, text
    assert "on cpu of node b, one at a time" in text
    tags = mlflow_tags(tmp_path / "sweep")
    assert tags["measured.cpu"] == {"Z80"} and tags["measured.host"] == {"b"}
    assert tags["measured.device"] == {"cpu"} and tags["measured.threads"] == {"1"}
