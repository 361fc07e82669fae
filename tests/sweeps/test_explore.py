"""Explorations, with stages that cost nothing in place of training, and one with all that is real."""

import dataclasses
import io
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

import sweeps.explore as explore_module
import sweeps.report as report_module
import sweeps.sweep as sweep_module
from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.files import read_json
from easrec.models.architecture import Architecture
from easrec.nas.resources import network_flops
from sweeps.cluster import Cluster
from sweeps.explore import Exploration
from sweeps.explore_config import ExploreConfig
from sweeps.records import MEASURED
from sweeps.results import FailedTrial, TrialRecord
from sweeps.store import Store, StoredFailureError, Workspace
from sweeps.study import load_study, open_storage, study_name
from sweeps.sweep import run_sweep
from sweeps.trial import ARCHITECTURE, NETWORK, TrialConfig
from tests.sweeps.finished_sweep import write_log

ROOT = Path(__file__).parents[2]


class Shared:
    """Data that need not be shared."""

    @classmethod
    def put(cls, data: SplitData) -> "Shared":
        return cls()


class Recorder:
    """What would go to MLflow."""

    tracking_uri = "sqlite:////nowhere"
    runs: dict[str, TrialRecord | FailedTrial] = {}  # noqa: RUF012
    status = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def record_trial(self, record: TrialRecord) -> None:
        self.runs[record.trial_id] = record

    def record_failure(self, failed: FailedTrial) -> None:
        self.runs[failed.trial_id] = failed

    def record_fronts(self, frame: pd.DataFrame) -> None:
        pass

    def record_configuration(self, record: Any) -> None:
        pass

    def share_views(self, accuracy: str) -> dict[str, str]:
        return {}

    def record_sweep(self, **what: Any) -> None:
        pass

    def finish(self, status: str, end_ms: int) -> None:
        Recorder.status = status


class Died(BaseException):
    """A process that is killed: nothing that it would do afterwards happens."""


@dataclasses.dataclass
class Stages:
    """What the stand-in was asked for, and when it shall die."""

    warmed: list[str] = dataclasses.field(default_factory=list)
    batches: list[list[str]] = dataclasses.field(default_factory=list)
    measured: list[str] = dataclasses.field(default_factory=list)
    accuracy: Callable[[TrialConfig, Architecture], float] | None = None


def derived(trial: TrialConfig) -> Architecture:
    """The larger lambda, the smaller the network."""
    spot = min(int(trial.tradeoff * 2), len(trial.space) - 1)
    return trial.space.architecture(spot, 1 if trial.tradeoff > 0.3 else trial.space.num_layers)


def accuracy_of(trial: TrialConfig, architecture: Architecture) -> float:
    return 0.01 * architecture.num_layers + architecture.hidden_size / 1000 + trial.seed / 10_000


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    asked = Stages()

    @contextmanager
    def cluster(config: ExploreConfig) -> Iterator[Cluster]:
        yield Cluster(cpus=2, gpus=0.0, device="cpu", resources={"CPU": 1.0}, slots=2, warmup_slots=2)

    def warm(trials: Sequence[TrialConfig], shared: Any, store: Store, cluster: Cluster) -> dict[str, str]:
        for trial in trials:
            asked.warmed.append(trial.warm_key)
            store.get_or_compute("warm", trial.warm_key, lambda _: {"epochs": [], "warmup_s": 1.0})
        return {}

    def train(
        trials: Sequence[TrialConfig],
        shared: Any,
        store: Store,
        cluster: Cluster,
        *,
        on_busy: Any,
        on_end: Callable[[str], None],
        halving: Any,
    ) -> dict[str, str]:
        asked.batches.append([trial.trial_id for trial in trials])
        for trial in trials:
            architecture = derived(trial)
            value = {
                "architecture": architecture.to_dict(),
                "epochs": [],
                "search_s": 1.0,
                "latencies_ms": [],
            }
            store.get_or_compute("search", trial.search_key, lambda _, value=value: value)
            if trial.refusal(architecture) is None:
                key = trial.retrain_key(architecture)
                with suppress(StoredFailureError):
                    store.get_or_compute(
                        "retrain",
                        key,
                        lambda w, t=trial, a=architecture: retrained(w, t, a),
                        failures=(ValueError,),
                    )
            on_end(trial.trial_id)
        return {}

    def retrained(workspace: Workspace, trial: TrialConfig, architecture: Architecture) -> dict[str, Any]:
        (workspace.directory / NETWORK).mkdir(exist_ok=True)
        (workspace.directory / ARCHITECTURE).write_text(architecture.to_json())
        accuracy = (asked.accuracy or accuracy_of)(trial, architecture)
        names = [
            f"{split}/{protocol}/ndcg_at_10" for split in ("valid", "test") for protocol in ("unseen", "full")
        ]
        return {"epochs": [], "best_epoch": 1, "metrics": dict.fromkeys(names, accuracy), "retrain_s": 1.0}

    def measure(trial: TrialConfig, architecture: Architecture, *args: Any) -> dict[str, float]:
        asked.measured.append(architecture.architecture_id)
        return dict.fromkeys(MEASURED, architecture.num_layers * architecture.hidden_size / 100)

    Recorder.runs = {}
    monkeypatch.setattr(sweep_module, "ray_cluster", cluster)
    monkeypatch.setattr(sweep_module, "SharedData", Shared)
    monkeypatch.setattr(sweep_module, "warm_supernets", warm)
    monkeypatch.setattr(sweep_module, "train_trials", train)
    monkeypatch.setattr(sweep_module, "measure_network", measure)
    monkeypatch.setattr(report_module, "pareto_html", lambda *args: None)
    monkeypatch.setattr(report_module, "pareto_png", lambda *args: None)
    monkeypatch.setattr(report_module, "log_front_models", lambda *args: None)
    monkeypatch.setattr(sweep_module, "create_store", lambda path: "sqlite:////nowhere")
    monkeypatch.setattr(sweep_module.Sweep, "RECORDER", Recorder)
    return asked


def config_of(tmp_path: Path, **changes: Any) -> ExploreConfig:
    log = tmp_path / "log.csv"
    if not log.exists():
        write_log(log)
    settings: dict[str, Any] = {
        "data": log,
        "preset": "smoke",
        "trials": 6,
        "batch": 2,
        "max_length": 10,
        "output": tmp_path / "sweep",
    }
    config = ExploreConfig(**(settings | changes))
    config.check()
    return config


def run(config: ExploreConfig) -> tuple[int, str]:
    """The exit status and what was printed."""
    console = Console(file=io.StringIO(), width=200)
    status = run_sweep(config, console=console, kind=Exploration)
    assert isinstance(console.file, io.StringIO)
    return status, console.file.getvalue()


def study_trials(output: Path) -> list[FrozenTrial]:
    name = study_name(read_json(output / "sweep.json")["sweep_id"])
    return load_study(name, open_storage(None, output)).get_trials(deepcopy=False)


def told(output: Path) -> list[tuple[int, TrialState, Mapping[str, Any], list[float] | None]]:
    return [(trial.number, trial.state, trial.params, trial.values) for trial in study_trials(output)]


def table(output: Path) -> pd.DataFrame:
    return pd.read_parquet(output / "results.parquet")


def test_an_exploration_trains_batches_and_tells_what_they_gave(tmp_path: Path, stages: Stages) -> None:
    status, text = run(config_of(tmp_path))
    assert status == 0, text
    assert [len(batch) for batch in stages.batches] == [2, 2, 2]
    trials = study_trials(tmp_path / "sweep")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    frame = table(tmp_path / "sweep").set_index("study_trial")
    assert sorted(frame.index) == list(range(6))
    for trial in trials:
        row = frame.loc[trial.number]
        assert trial.values == [row["valid/unseen/ndcg_at_10"], row["flops"]]
        assert trial.user_attrs["trials"] == [row["trial_id"]]
        assert row["tradeoff"] == pytest.approx(trial.params["tradeoff"], rel=0.01)
        assert row["point.pairing"] == trial.params["pairing"]
        # The record is that of any sweep, with the study's name and number beside.
        record = Recorder.runs[row["trial_id"]]
        assert isinstance(record, TrialRecord)
        assert record.tags["study_trial"] == str(trial.number)
        assert record.params["search.temperature.kind"] == trial.params["temperature_kind"]
    assert Recorder.status == "FINISHED"
    assert "optuna-dashboard" in text and "6 finished, 0 refused, 0 failed" in text
    # Once more: nothing is tried again.
    status, text = run(config_of(tmp_path, resume=True))
    assert status == 0 and len(stages.batches) == 3, text
    # More trials may be asked for later.
    status, text = run(config_of(tmp_path, resume=True, trials=8))
    assert status == 0 and len(stages.batches) == 4
    assert len(table(tmp_path / "sweep")) == 8


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_killed_driver_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, stages: Stages, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    run(config_of(tmp_path, sampler=sampler, output=tmp_path / "whole"))
    expected = told(tmp_path / "whole")
    measured = [*MEASURED, "pareto_latency"]
    rows = table(tmp_path / "whole").drop(columns=measured)
    for moment in (1, 2, 3, 4, 6, 8, 11):
        output = tmp_path / f"killed {moment}"
        steps = 0

        def dying(function: Any, moment: int = moment) -> Any:
            def wrapped(*args: Any, **options: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps == moment:
                    raise Died
                return function(*args, **options)

            return wrapped

        with monkeypatch.context() as patch:
            patch.setattr(explore_module.SweepStudy, "tell", dying(explore_module.SweepStudy.tell))
            patch.setattr(explore_module.SweepStudy, "_suggest", dying(explore_module.SweepStudy._suggest))
            patch.setattr(sweep_module, "train_trials", dying(sweep_module.train_trials))
            with pytest.raises(Died):
                run(config_of(tmp_path, sampler=sampler, output=output))
        status, text = run(config_of(tmp_path, sampler=sampler, output=output, resume=True))
        assert status == 0, text
        assert told(output) == expected, moment
        pd.testing.assert_frame_equal(table(output).drop(columns=measured), rows)


def test_random_and_qmc_repeat_whatever_their_batches_and_tpe_at_the_same_one(
    tmp_path: Path, stages: Stages
) -> None:
    def tried(sampler: str, batch: int | None) -> list[Any]:
        output = tmp_path / f"{sampler} {batch}"
        run(config_of(tmp_path, sampler=sampler, batch=batch, output=output))
        return told(output)

    for sampler in ("random", "qmc"):
        assert tried(sampler, 1) == tried(sampler, 4) == tried(sampler, None)
    assert len(stages.batches[-1]) == 6, "left out, they are one batch"
    again = tmp_path / "again"
    run(config_of(tmp_path, sampler="tpe", batch=2, output=again))
    assert told(again) == tried("tpe", 2) != tried("tpe", 6)


def test_what_is_over_budget_is_not_retrained_and_the_study_knows_how_far(
    tmp_path: Path, stages: Stages
) -> None:
    bound = 2 * network_flops(Architecture(8, 16, 1, 4, gate_layers=0), 10)
    status, text = run(config_of(tmp_path, max_flops=bound, trials=10, tradeoff_range=(1.0, 10.0)))
    trials = study_trials(tmp_path / "sweep")
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert status == 0, text  # nothing went wrong
    frame = table(tmp_path / "sweep").set_index("trial_id")
    store = Store(tmp_path / "sweep" / "store")
    warmed = set(stages.warmed)
    before_warmup = 0
    for trial in trials:
        (trial_id,) = trial.user_attrs["trials"]
        row = frame.loc[trial_id]
        if trial.state == TrialState.COMPLETE:
            assert (row["status"], row["flops"] <= bound) == ("finished", True)
            assert trial.constraints == {"flops": row["flops"] / bound - 1}
            assert row["within_budget"]
        else:
            assert row["status"] == "refused" and "over --max-flops" in row["error"]
            assert trial.constraints["flops"] > 0 and trial.values is None
            assert not row["pareto"]
            assert isinstance(Recorder.runs[trial_id], FailedTrial)
            before_warmup += row["error"].startswith("its smallest network")
    assert before_warmup > 0, "candidates of 16 dimensions and more are over it, whatever their gates"
    # Nothing was warmed for those, and nothing over the bound was retrained.
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(warmed) <= len(trials) - before_warmup
    assert len(list(store.root.glob("retrain/*/result.json"))) <= len(finished)


def test_a_budget_on_latency_is_learned_from_what_was_measured(tmp_path: Path, stages: Stages) -> None:
    status, text = run(
        config_of(tmp_path, max_latency_ms=0.3, objectives=("accuracy", "latency"), batch=3, space="lambda")
    )
    assert status == 0, text
    trials = study_trials(tmp_path / "sweep")
    frame = table(tmp_path / "sweep").set_index("study_trial")
    for trial in trials:
        latency = frame.loc[trial.number, "latency_ms_p50"]
        assert trial.values == [frame.loc[trial.number, "valid/unseen/ndcg_at_10"], latency]
        assert trial.constraints == {"latency_ms_p50": pytest.approx(latency / 0.3 - 1)}
        assert frame.loc[trial.number, "within_budget"] == (latency <= 0.3)
    assert {bool(flag) for flag in frame["within_budget"]} == {True, False}
    # Each architecture is measured once, after the batch that brought it.
    assert sorted(stages.measured) == sorted(set(frame["architecture_id"]))


def test_a_budget_that_nothing_keeps_leaves_no_sweep(tmp_path: Path, stages: Stages) -> None:
    with pytest.raises(InputError, match="no network of the space is within the budget"):
        run(config_of(tmp_path, max_params=10))
    assert not (tmp_path / "sweep").exists()


def test_an_accuracy_that_is_not_a_number_fails_in_the_study(tmp_path: Path, stages: Stages) -> None:
    def fail(trial: TrialConfig, architecture: Architecture) -> float:
        raise ValueError("the loss became NaN in epoch 3")

    stages.accuracy = fail
    status, text = run(config_of(tmp_path, trials=2))
    assert status == 1 and "the loss became NaN in epoch 3" in text
    assert [trial.state for trial in study_trials(tmp_path / "sweep")] == [TrialState.FAIL] * 2
    # Resumed, the trials that failed stay so, and others may follow.
    stages.accuracy = None
    status, text = run(config_of(tmp_path, trials=4, resume=True))
    assert status == 1 and "the loss became NaN in epoch 3" in text
    states = [trial.state for trial in study_trials(tmp_path / "sweep")]
    assert states == [TrialState.FAIL] * 2 + [TrialState.COMPLETE] * 2


def test_seeds_of_a_point_count_as_one_trial_with_their_means(tmp_path: Path, stages: Stages) -> None:
    status, text = run(config_of(tmp_path, seeds=3, trials=2, batch=1))
    assert status == 0, text
    frame = table(tmp_path / "sweep")
    assert len(frame) == 6
    for trial in study_trials(tmp_path / "sweep"):
        own = frame[frame["study_trial"] == trial.number]
        assert sorted(own["seed"]) == [0, 1, 2]
        assert trial.values == pytest.approx([own["valid/unseen/ndcg_at_10"].mean(), own["flops"].mean()])


def test_it_stops_when_the_hypervolume_no_longer_grows(tmp_path: Path, stages: Stages) -> None:
    status, text = run(config_of(tmp_path, space="lambda", trials=40, stalled_trials=4))
    assert status == 0, text
    assert "--stalled-trials 4: the hypervolume has not grown" in text
    assert 6 <= len(study_trials(tmp_path / "sweep")) < 40


def test_it_stops_after_its_time(tmp_path: Path, stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    minutes = iter(range(1000))
    monkeypatch.setattr(Exploration, "elapsed_s", lambda self: 60.0 * next(minutes))
    status, text = run(config_of(tmp_path, trials=100, time_budget=30.0))
    assert status == 0
    assert "--time-budget 30: no further batch is begun" in text
    assert 0 < len(study_trials(tmp_path / "sweep")) < 100


def test_it_starts_from_another_one_on_purpose_alone(tmp_path: Path, stages: Stages) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    run(config_of(tmp_path, output=old))
    status, text = run(config_of(tmp_path, output=new, start_from=str(old), trials=2))
    assert status == 0, text
    assert "6 trials of easrec-" in text
    trials = study_trials(new)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 8
    assert [trial.values for trial in trials[:6]] == [trial.values for trial in study_trials(old)]
    # The results are this sweep's own.
    assert sorted(table(new)["study_trial"]) == [6, 7]
    # A sweep that was not told to has a study of its own, in the same database too.
    address = f"sqlite:///{tmp_path}/studies.db"
    for name in ("third", "fourth"):
        run(config_of(tmp_path, output=tmp_path / name, study=address, trials=2))
    with sqlite3.connect(tmp_path / "studies.db") as database:
        counts = database.execute("select count(*) from trials group by study_id").fetchall()
    assert counts == [(2,), (2,)]
    with pytest.raises(InputError, match="the objectives was"):
        run(
            config_of(
                tmp_path, output=tmp_path / "x", start_from=str(old), objectives=("accuracy", "latency")
            )
        )
    with pytest.raises(InputError, match="is no directory of an exploration"):
        run(config_of(tmp_path, output=tmp_path / "x", start_from="nowhere"))
    assert not (tmp_path / "x").exists()


def test_a_resumed_exploration_must_be_the_same(tmp_path: Path, stages: Stages) -> None:
    run(config_of(tmp_path, trials=2))
    with pytest.raises(InputError, match="--sampler was 'tpe' and is now 'random'"):
        run(config_of(tmp_path, trials=2, resume=True, sampler="random"))


def command(output: Path, log: Path) -> list[str]:
    return [
        sys.executable, str(ROOT / "pipelines" / "explore.py"), "--data", str(log), "--output", str(output),
        "--preset", "smoke", "--trials", "4", "--batch", "2", "--space", "controllers", "--hidden-size", "16",
        "--inner-size", "32", "--max-length", "10", "--retrain-epochs", "1",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_real_exploration_that_was_killed_equals_the_undisturbed_one(tmp_path: Path) -> None:
    """With Ray, training and MLflow: SIGKILL of the driver while it trains its second batch."""
    log = tmp_path / "log.csv"
    write_log(log)
    whole = subprocess.run(command(tmp_path / "whole", log), capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert whole.stderr == ""
    output = tmp_path / "killed"
    process = subprocess.Popen(
        command(output, log), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while len(list(output.glob("store/search/*/attempts.json"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "results.parquet").exists()
    assert TrialState.RUNNING in {trial.state for trial in study_trials(output)}
    done = subprocess.run([*command(output, log), "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert told(output) == told(tmp_path / "whole")
    measured = [
        name
        for name in table(output)
        if name.endswith(("_s", "_mib")) or "latency" in name or name in MEASURED
    ]
    pd.testing.assert_frame_equal(
        table(output).drop(columns=measured), table(tmp_path / "whole").drop(columns=measured)
    )
    # One run for each trial and one for the sweep.
    with sqlite3.connect(output / "mlflow.db") as database:
        runs = database.execute("select status from runs").fetchall()
    assert runs == [("FINISHED",)] * (1 + table(output)["trial_id"].nunique())
