"""A sweep from its settings to its files, with a driver that trains in this process in place of Ray."""

import io
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

import sweeps.sweep as sweep_module
import sweeps.trial as trial_module
from easrec.data.sequences import SplitData
from easrec.errors import InputError
from sweeps.cluster import Cluster
from sweeps.config import SweepConfig
from sweeps.coordinator import Coordinator
from sweeps.measuring import MeasuringPlace
from sweeps.objects import ObjectStore
from sweeps.records import MEASURED
from sweeps.remote_store import RemoteStore
from sweeps.storage_error import StorageError
from sweeps.store import Store, StoredFailureError
from sweeps.sweep import run_sweep
from sweeps.trial import TrialConfig, latency_stage, run_trial, warm_stage
from tests.sweeps.finished_sweep import write_log


class Shared:
    """Data that need not be shared."""

    def __init__(self, data: SplitData) -> None:
        self.data = data

    @classmethod
    def put(cls, data: SplitData) -> "Shared":
        return cls(data)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages in the order in which they were asked for; all run in this process."""
    asked: list[str] = []

    @contextmanager
    def cluster(config: SweepConfig) -> Iterator[Cluster]:
        yield Cluster(cpus=1, gpus=0.0, device="cpu", resources={"CPU": 1.0}, slots=1, warmup_slots=1)

    def warm(trials: Sequence[TrialConfig], shared: Shared, store: Store, cluster: Cluster) -> dict[str, str]:
        asked.append("warm")
        for trial in trials:
            with suppress(StoredFailureError):
                warm_stage(trial, shared.data, store)
        return {}

    def layers(trial: TrialConfig, store: Store, place: MeasuringPlace) -> None:
        asked.append("layers")
        latency_stage(trial, store)

    def train(
        trials: Sequence[TrialConfig],
        shared: Shared,
        store: Store,
        cluster: Cluster,
        *,
        on_busy: Any,
        on_end: Callable[[str], None],
        halving: Any,
    ) -> dict[str, str]:
        for trial in trials:
            asked.append("train")
            with suppress(StoredFailureError):
                run_trial(trial, shared.data, store, on_busy=on_busy)
            on_end(trial.trial_id)
        return {}

    monkeypatch.setattr(sweep_module, "ray_cluster", cluster)
    monkeypatch.setattr(sweep_module, "SharedData", Shared)
    monkeypatch.setattr(sweep_module, "warm_supernets", warm)
    monkeypatch.setattr(sweep_module, "measure_layers", layers)
    monkeypatch.setattr(sweep_module, "train_trials", train)
    monkeypatch.setattr(sweep_module, "measure_network", lambda *args: dict.fromkeys(MEASURED, 1.0))
    return asked


def config_of(tmp_path: Path, **changes: Any) -> SweepConfig:
    log = tmp_path / "log.csv"
    write_log(log)
    settings: dict[str, Any] = {
        "data": log,
        "preset": "smoke",
        "tradeoffs": (0.0, 100.0),
        "hidden_size": 16,
        "inner_size": 32,
        "num_heads": 2,
        "max_length": 10,
        "batch_size": 16,
        "search_epochs": 1,
        "retrain_epochs": 1,
        "output": tmp_path / "sweep",
    }
    return SweepConfig(**(settings | changes))


def run(config: SweepConfig) -> tuple[int, str]:
    """The exit status and what was printed."""
    console = Console(file=io.StringIO(), width=200)
    status = run_sweep(config, console=console)
    assert isinstance(console.file, io.StringIO)
    return status, console.file.getvalue()


def mlflow_params(output: Path) -> dict[str, set[str]]:
    return _values(output, "params")


def mlflow_tags(output: Path) -> dict[str, set[str]]:
    return _values(output, "tags")


def _values(output: Path, table: str) -> dict[str, set[str]]:
    with sqlite3.connect(output / "mlflow.db") as database:
        rows = database.execute(f"select key, value from {table}").fetchall()
    found: dict[str, set[str]] = {}
    for name, value in rows:
        found.setdefault(name, set()).add(value)
    return found


@pytest.mark.slow
def test_what_failed_is_tried_again_on_resume(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, resource="latency")
    with monkeypatch.context() as broken:

        def fail(*args: Any, **options: Any) -> None:
            raise ValueError("the disk was full")

        broken.setattr(trial_module, "alternate", fail)
        status, text = run(config)
    assert status == 1
    assert "no trial finished" in text and "the disk was full" in text
    # The user has put it right since.
    status, text = run(SweepConfig(**{**vars(config), "resume": True}))
    assert status == 0, text
    assert "the disk was full" not in text
    assert "MLflow did not take" not in text
    assert "layer_latencies_ms" in mlflow_params(tmp_path / "sweep")
    assert len(pd.read_parquet(tmp_path / "sweep" / "results.parquet")) == 2


@pytest.mark.slow
def test_a_temporal_sweep_by_latency_measures_layers_once_before_its_trials(
    tmp_path: Path, calls: list[str]
) -> None:
    config = config_of(
        tmp_path, resource="latency", seeds=2, split="temporal", valid_share=0.15, asked="last",
        pairing="product", hidden_intensities=(0.0, 0.5), inner_intensities=(0.0, 0.5), weights="shared",
    )  # fmt: skip
    status, text = run(config)
    assert status == 0, text
    assert calls == ["warm", "layers", "train", "train", "train", "train"]
    assert re.search(r"split at the times \d+ and \d+: \d+ validation and \d+ test questions", text)
    params = mlflow_params(tmp_path / "sweep")
    assert params["data.split"] == {"temporal"}
    assert params["data.asked"] == {"last"}
    assert params["space.pairing"] == {"product"} and params["space.weights"] == {"shared"}
    assert params["search.resource"] == {"latency"}
    (table,) = params["layer_latencies_ms"]
    assert table.count(",") == 3
    status, text = run(SweepConfig(**{**vars(config), "resume": True}))
    assert status == 0
    assert calls[6:] == ["warm"], "all is there already"


@pytest.mark.slow
def test_a_sweep_with_a_storage_keeps_results_there_and_the_rest_with_the_driver(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EASREC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sweep_module, "shared_store", lambda objects: RemoteStore(objects, Coordinator()))
    storage = tmp_path / "storage"
    config = config_of(tmp_path, storage=str(storage))
    status, text = run(config)
    assert status == 0, text
    assert f"storage: {storage}" in text
    output = tmp_path / "sweep"
    assert not (output / "store").exists()
    assert {"sweep.json", "results.parquet", "pareto.html", "mlflow.db"} <= {p.name for p in output.iterdir()}
    assert {path.name for path in storage.iterdir()} == {"warm", "search", "retrain"}
    assert len(list((storage / "search").glob("*.json"))) == 2
    before = pd.read_parquet(output / "results.parquet")
    shutil.rmtree(tmp_path / "cache")
    resumed = SweepConfig(**{**vars(config), "resume": True})
    status, text = run(resumed)
    assert status == 0, text
    assert "2 of 2 trials are trained already" in text
    assert pd.read_parquet(output / "results.parquet").equals(before)
    with pytest.raises(InputError, match=r"--storage was .* and is now None"):
        run(SweepConfig(**{**vars(resumed), "storage": None}))


def test_a_storage_that_cannot_be_used_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--storage /proc/nowhere cannot be used"):
        run(config_of(tmp_path, storage="/proc/nowhere"))
    assert not (tmp_path / "sweep").exists()


def test_a_storage_that_goes_away_ends_the_sweep_with_the_command_that_goes_on(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(objects: ObjectStore) -> RemoteStore:
        raise StorageError("writing x at s3://bucket keeps failing: nothing answers there")

    monkeypatch.setattr(sweep_module, "shared_store", gone)
    status, text = run(config_of(tmp_path, storage=str(tmp_path / "storage")))
    assert status == 1
    assert "stopped: writing x at s3://bucket keeps failing: nothing answers there; what is finished" in text
    assert f"--storage {tmp_path / 'storage'}" in text


def test_ctrl_c_before_a_sweep_began_leaves_nothing_and_names_the_command_that_begins_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupted(config: SweepConfig) -> Iterator[Cluster]:
        raise KeyboardInterrupt
        yield  # type: ignore[unreachable]

    monkeypatch.setattr(sweep_module, "ray_cluster", interrupted)
    config = config_of(tmp_path)
    status, text = run(config)
    assert status == 130
    assert "--resume" not in text and "--output" in text
    assert not (tmp_path / "sweep").exists()


def test_a_log_without_a_training_target_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    log = tmp_path / "short.csv"
    rows = [f"u{user},i{item},{item}" for user in range(9) for item in range(3)]
    log.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    config = config_of(tmp_path, data=log)
    with pytest.raises(InputError, match="no training target: nobody has two interactions in training"):
        run(config)
    assert not (tmp_path / "sweep").exists()
