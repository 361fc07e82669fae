import dataclasses
import json
import math
import os
import shlex
import sqlite3
import sys
import threading
import uuid
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from easrec.errors import InputError
from easrec.models.architecture import Architecture
from sweeps import mlflow_store
from sweeps.configurations import ConfigurationRecord
from sweeps.results import FailedTrial, TrialRecord, results_frame
from sweeps.tracking import SweepRecorder, create_store, ui_command

pytestmark = [
    # MLflow 3.17 maps its tables with an option that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One database for all tests: making one takes seconds. Each test records a sweep of its own."""
    return create_store(tmp_path_factory.mktemp("a store é"))


@pytest.fixture
def sweep_id():
    return uuid.uuid4().hex


@pytest.fixture
def record(tmp_path):
    (tmp_path / "source").mkdir()
    weights = tmp_path / "source" / "w-17.safetensors"
    weights.write_bytes(bytes(range(256)))
    return TrialRecord(
        trial_id="trial-a",
        tradeoff=0.1,
        seed=3,
        architecture=Architecture(16, 64, 1, 4),
        params={"tradeoff": 0.1, "search.warmup_epochs": 5, "search.init": "warm", "retrain.amp": False},
        metrics={"valid/unseen/ndcg_at_10": 0.1, "flops": 1e6, "zero": 0.0},
        curves={
            "search/loss": [(step, 1000 + step, 5 / step) for step in range(1, 6)],
            "search/temperature": [(1, 1001, 1.0), (2, 1002, 1.0)],
        },
        tags={"commit": "abc", "threads": "1"},
        artifacts={"weights.safetensors": weights, "network/weights.safetensors": weights},
        start_ms=1000,
        end_ms=2000,
    )


def database(store):
    return sqlite3.connect(store.removeprefix("sqlite:///"))


def runs_with(store, key, value):
    with database(store) as connection:
        query = "select run_uuid from tags where key = ? and value = ?"
        return [run for (run,) in connection.execute(query, (key, value))]


def held(store, run_id):
    """All that the store holds of a run, rows and files, but for its ids."""
    with database(store) as connection:
        (run,) = connection.execute(
            "select name, status, start_time, end_time from runs where run_uuid = ?", (run_id,)
        ).fetchall()
        (uri,) = connection.execute("select artifact_uri from runs where run_uuid = ?", (run_id,)).fetchone()
        rows = {
            table: sorted(connection.execute(f"select {columns} from {table} where run_uuid = ?", (run_id,)))
            for table, columns in {
                "params": "key, value",
                "metrics": "key, value, timestamp, step",
                "latest_metrics": "key, value, timestamp, step",
                "tags": "key, value",
            }.items()
        }
    rows["tags"] = [tag for tag in rows["tags"] if tag[0] not in ("mlflow.parentRunId", "easrec.sweep_id")]
    assert uri.startswith("file://")
    root = Path(uri.removeprefix("file://").replace("%20", " ").replace("%C3%A9", "é"))
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {"run": run, **rows, "files": files}


def children(store, recorder):
    return runs_with(store, "mlflow.parentRunId", recorder.parent_run_id)


def test_a_trial_becomes_one_child_run_with_all_that_it_has(store, sweep_id, record):
    recorder = SweepRecorder(store, sweep_id, start_ms=500)
    run_id = recorder.record_trial(record)
    assert children(store, recorder) == [run_id]
    run = held(store, run_id)
    assert run["run"] == ("lambda 0.1, seed 3", "FINISHED", 1000, 2000)
    assert dict(run["params"]) == {
        "tradeoff": "0.1",
        "search.warmup_epochs": "5",
        "search.init": "warm",
        "retrain.amp": "False",
    }
    assert run["metrics"] == sorted(
        [
            ("valid/unseen/ndcg_at_10", 0.1, 2000, 0),
            ("flops", 1e6, 2000, 0),
            ("flops_log10", 6.0, 2000, 0),
            ("zero", 0.0, 2000, 0),
            *(("search/loss", 5 / step, 1000 + step, step) for step in range(1, 6)),
            ("search/temperature", 1.0, 1001, 1),
            ("search/temperature", 1.0, 1002, 2),
        ]
    )
    tags = dict(run["tags"])
    assert tags["architecture_id"] == "h16-i64-l1-a4-linear-column-g2"
    assert (tags["seed"], tags["commit"], tags["threads"]) == ("3", "abc", "1")
    assert run["files"].keys() == {"weights.safetensors", "network/weights.safetensors", "params.json"}
    assert run["files"]["weights.safetensors"] == bytes(range(256))
    assert json.loads(run["files"]["params.json"]) == record.params


def test_recording_again_changes_nothing(store, sweep_id, record):
    run_id = SweepRecorder(store, sweep_id, start_ms=500).record_trial(record)
    before = held(store, run_id)
    resumed = SweepRecorder(store, sweep_id, start_ms=900)
    assert resumed.record_trial(record) == run_id
    assert children(store, resumed) == [run_id]
    assert held(store, run_id) == before


class CrashingClient:
    """An MLflow client that dies at its n-th call, before doing it or just after."""

    def __init__(self, client, crash_at, after):
        self._client, self._crash_at, self._after = client, crash_at, after
        self.calls = 0

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls += 1
            if self.calls == self._crash_at and not self._after:
                raise KeyboardInterrupt
            result = getattr(self._client, name)(*args, **kwargs)
            if self.calls == self._crash_at:
                raise KeyboardInterrupt
            return result

        return call


@pytest.mark.parametrize("after", [False, True], ids=["before a call", "after a call"])
def test_a_crash_at_any_call_leaves_one_whole_run_once_recorded_again(store, record, after):
    undisturbed = SweepRecorder(store, uuid.uuid4().hex, start_ms=500)
    counting = CrashingClient(undisturbed._client, 0, after)
    undisturbed._client = counting
    expected = held(store, undisturbed.record_trial(record))
    assert counting.calls >= 5
    for crash_at in range(1, counting.calls + 1):
        sweep_id = uuid.uuid4().hex
        crashing = SweepRecorder(store, sweep_id, start_ms=500)
        crashing._client = CrashingClient(crashing._client, crash_at, after)
        with pytest.raises(KeyboardInterrupt):
            crashing.record_trial(record)
        resumed = SweepRecorder(store, sweep_id, start_ms=500)
        run_id = resumed.record_trial(record)
        assert children(store, resumed) == [run_id]
        assert held(store, run_id) == expected


def test_figures_measured_later_join_the_run(store, sweep_id, record):
    recorder = SweepRecorder(store, sweep_id, start_ms=500)
    run_id = recorder.record_trial(record)
    before = held(store, run_id)
    later = dataclasses.replace(record, metrics={**record.metrics, "latency_ms_p50": 1.5})
    assert recorder.record_trial(later) == run_id
    after = held(store, run_id)
    assert set(after["metrics"]) - set(before["metrics"]) == {("latency_ms_p50", 1.5, 2000, 0)}
    assert after["files"] == before["files"] and after["run"] == before["run"]


def test_a_figure_measured_anew_is_the_one_that_mlflow_shows(store, sweep_id, record):
    # Of two points of one step and time MLflow shows the larger: here that would be the old one.
    recorder = SweepRecorder(store, sweep_id, start_ms=500)
    for latency in (1.5, 1.2, 1.2):
        metrics = {**record.metrics, "latency_ms_p50": latency}
        run_id = recorder.record_trial(dataclasses.replace(record, metrics=metrics))
    run = held(store, run_id)
    assert ("latency_ms_p50", 1.2, 2000, 1) in run["latest_metrics"]
    assert [row[1:] for row in run["metrics"] if row[0] == "latency_ms_p50"] == [
        (1.2, 2000, 1),
        (1.5, 2000, 0),
    ]


def test_a_changed_artifact_is_uploaded_again(store, sweep_id, record):
    recorder = SweepRecorder(store, sweep_id, start_ms=500)
    recorder.record_trial(record)
    record.artifacts["weights.safetensors"].write_bytes(b"new")
    assert held(store, recorder.record_trial(record))["files"]["weights.safetensors"] == b"new"


def test_resuming_continues_the_parent_run(store, sweep_id):
    first = SweepRecorder(store, sweep_id, start_ms=500, run_name="my sweep")
    first.finish("KILLED", 800)
    assert held(store, first.parent_run_id)["run"] == ("my sweep", "KILLED", 500, 800)
    second = SweepRecorder(store, sweep_id, start_ms=900)
    assert second.parent_run_id == first.parent_run_id
    assert held(store, first.parent_run_id)["run"][:3] == ("my sweep", "RUNNING", 500)
    second.finish("FINISHED", 1000)
    assert held(store, first.parent_run_id)["run"] == ("my sweep", "FINISHED", 500, 1000)


def test_sweeps_share_an_experiment_but_no_runs(store, record):
    one, other = (SweepRecorder(store, uuid.uuid4().hex, start_ms=500) for _ in range(2))
    assert one.experiment_id == other.experiment_id
    assert one.parent_run_id != other.parent_run_id
    assert one.record_trial(record) != other.record_trial(record)


def test_a_failed_trial_says_why_and_recovers_when_it_succeeds(store, sweep_id, record):
    recorder = SweepRecorder(store, sweep_id, start_ms=500)
    failed = FailedTrial(
        trial_id=record.trial_id,
        tradeoff=0.1,
        seed=3,
        params={"tradeoff": 0.1},
        error="the loss was nan in epoch 2",
        start_ms=1000,
        end_ms=1500,
    )
    run_id = recorder.record_failure(failed)
    assert recorder.record_failure(failed) == run_id
    run = held(store, run_id)
    assert run["run"] == ("lambda 0.1, seed 3", "FAILED", 1000, 1500)
    assert dict(run["tags"])["easrec.error"] == "the loss was nan in epoch 2"
    assert recorder.record_trial(record) == run_id
    run = held(store, run_id)
    assert run["run"] == ("lambda 0.1, seed 3", "FINISHED", 1000, 2000)
    assert "easrec.error" not in dict(run["tags"])


def test_fronts_are_tagged_and_change_as_trials_arrive(store, sweep_id, record):
    recorder = SweepRecorder(store, sweep_id, start_ms=500)
    run_id = recorder.record_trial(record)
    recorder.record_fronts(results_frame([record]))
    tags = dict(held(store, run_id)["tags"])
    assert (tags["pareto"], tags["pareto_latency"]) == ("true", "false")
    assert {("on_front", 1.0, 2000, 0), ("on_latency_front", 0.0, 2000, 0)} <= set(
        held(store, run_id)["metrics"]
    )
    better = dataclasses.replace(
        record,
        trial_id="trial-b",
        architecture=Architecture(8, 64, 1, 4),
        metrics={"valid/unseen/ndcg_at_10": 0.2, "flops": 1e5},
    )
    better_id = recorder.record_trial(better)
    recorder.record_fronts(results_frame([record, better]))
    assert dict(held(store, run_id)["tags"])["pareto"] == "false"
    assert dict(held(store, better_id)["tags"])["pareto"] == "true"
    assert ("on_front", 0.0, 2000, 1) in held(store, run_id)["metrics"]
    assert ("on_front", 1.0, 2000, 0) in held(store, better_id)["metrics"]


def test_the_parent_run_holds_what_belongs_to_the_whole_sweep(store, sweep_id, tmp_path):
    (tmp_path / "pareto.html").write_text("<html>")
    recorder = SweepRecorder(store, sweep_id, start_ms=500)
    for _ in range(2):
        recorder.record_sweep(
            params={"dataset": "ml-100k"},
            metrics={"num_architectures": 4},
            tags={"commit": "abc"},
            artifacts={"pareto.html": tmp_path / "pareto.html"},
            description="# A sweep",
            end_ms=900,
        )
    run = held(store, recorder.parent_run_id)
    assert dict(run["params"]) == {"dataset": "ml-100k"}
    assert run["metrics"] == [("num_architectures", 4.0, 900, 0)]
    assert dict(run["tags"])["mlflow.note.content"] == "# A sweep"
    assert run["files"]["pareto.html"] == b"<html>"


def test_more_than_one_call_can_carry_is_recorded_whole(store, sweep_id, record):
    large = dataclasses.replace(
        record,
        params={f"setting.{index}": index for index in range(230)},
        tags={f"tag.{index}": str(index) for index in range(230)},
        curves={"loss": [(step, 1000, float(step)) for step in range(2300)]},
    )
    recorder = SweepRecorder(store, sweep_id, start_ms=500)
    recorder.record_trial(large)
    run = held(store, recorder.record_trial(large))
    assert len(run["params"]) == 230
    assert sum(key.startswith("tag.") for key, _ in run["tags"]) == 230
    assert sum(row[0] == "loss" for row in run["metrics"]) == 2300


def test_a_long_parameter_is_cut_but_whole_among_the_artifacts(store, sweep_id, record):
    long = dataclasses.replace(record, params={"items": "x" * 9000})
    recorder = SweepRecorder(store, sweep_id, start_ms=500)
    recorder.record_trial(long)
    run = held(store, recorder.record_trial(long))
    ((_, value),) = run["params"]
    assert len(value) == 6000 and "9000 characters" in value
    assert json.loads(run["files"]["params.json"])["items"] == "x" * 9000


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused_before_anything_is_written(store, sweep_id, record, value):
    recorder = SweepRecorder(store, sweep_id, start_ms=500)
    with pytest.raises(ValueError, match=f"metric flops is {value}"):
        recorder.record_trial(dataclasses.replace(record, metrics={"flops": value}))
    with pytest.raises(ValueError, match=f"metric loss is {value} at step 7"):
        recorder.record_trial(dataclasses.replace(record, curves={"loss": [(7, 1000, value)]}))
    assert children(store, recorder) == []


def test_ids_with_quotes_are_refused(store):
    with pytest.raises(ValueError, match="no quote"):
        SweepRecorder(store, "it's", start_ms=500)


def test_creating_a_store_again_keeps_it_and_any_thread_may_do_it(store):
    directory = Path(store.removeprefix("sqlite:///")).parent
    before = (directory / "mlflow.db").read_bytes()
    uris = []
    thread = threading.Thread(target=lambda: uris.append(create_store(os.path.relpath(directory))))
    thread.start()
    thread.join()
    assert uris == [store]
    assert (directory / "mlflow.db").read_bytes() == before


def test_a_store_cut_short_is_made_anew(tmp_path, monkeypatch):
    def die(database, artifacts):
        database.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow_store, "_migrate", die)
    with pytest.raises(KeyboardInterrupt):
        create_store(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_no_database_address_can_name_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"characters \? # % in its name"):
        create_store(tmp_path / "why?")


def test_a_store_in_a_moved_directory_is_refused(store, tmp_path, record):
    SweepRecorder(store, "moved", start_ms=500)
    moved = tmp_path / "mlflow.db"
    moved.write_bytes(Path(store.removeprefix("sqlite:///")).read_bytes())
    with pytest.raises(InputError, match="the directory has been moved"):
        SweepRecorder(f"sqlite:///{moved}", "moved", start_ms=500)


def test_a_deleted_experiment_is_refused_with_the_remedy(store):
    recorder = SweepRecorder(store, "deleted", start_ms=500, experiment="to delete")
    recorder._client.delete_experiment(recorder.experiment_id)
    with pytest.raises(InputError, match=f"restore --experiment-id {recorder.experiment_id}"):
        SweepRecorder(store, "deleted", start_ms=500, experiment="to delete")


def test_recording_leaves_nothing_in_the_working_directory(store, sweep_id, record, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    SweepRecorder(store, sweep_id, start_ms=500).record_trial(record)
    assert list(elsewhere.iterdir()) == []


def test_the_ui_command_names_the_store_for_a_shell(store):
    words = shlex.split(ui_command(store, port=5123))
    assert words[1:4] == [sys.executable, "-m", "mlflow"]
    assert words[words.index("--backend-store-uri") + 1] == store
    assert words[words.index("--port") + 1] == "5123"
    assert ui_command("http://host:5000").endswith("http://host:5000")


@pytest.fixture
def configuration():
    return ConfigurationRecord(
        architecture_id="h16-i64-l1-a4-linear-column-g2",
        name="1 x 16/64, mean of 2 seeds",
        params={"architecture.hidden_size": 16},
        metrics={"valid/unseen/ndcg_at_10": 0.1, "valid/unseen/ndcg_at_10_sd": 0.01, "flops": 1e6},
        tags={"pareto": "true", "pareto_not_told_apart_from": "h8"},
        start_ms=1000,
        end_ms=2000,
    )


def test_a_configuration_is_a_run_of_its_own_that_no_trial_is_taken_for(
    store, sweep_id, record, configuration
):
    recorder = SweepRecorder(store, sweep_id, start_ms=500)
    trial_id = recorder.record_trial(record)
    run_id = recorder.record_configuration(configuration)
    assert sorted(children(store, recorder)) == sorted([trial_id, run_id])
    run = held(store, run_id)
    assert run["run"] == ("1 x 16/64, mean of 2 seeds", "FINISHED", 1000, 2000)
    tags = dict(run["tags"])
    assert (tags["easrec.kind"], tags["pareto"]) == ("configuration", "true")
    assert ("flops_log10", 6.0, 2000, 0) in run["metrics"]
    # The trial of the same architecture is still the one that is found, and recorded again changes neither.
    assert recorder.record_trial(record) == trial_id
    assert recorder.run_of(record.trial_id) == trial_id
    assert SweepRecorder(store, sweep_id, start_ms=500).record_configuration(configuration) == run_id
    assert held(store, run_id) == run


def test_a_configuration_is_brought_up_to_date(store, sweep_id, configuration):
    recorder = SweepRecorder(store, sweep_id, start_ms=500)
    recorder.record_configuration(configuration)
    later = dataclasses.replace(
        configuration,
        name="1 x 16/64, mean of 3 seeds",
        metrics={**configuration.metrics, "valid/unseen/ndcg_at_10": 0.09},
        tags={"pareto": "true"},
        end_ms=3000,
    )
    run = held(store, recorder.record_configuration(later))
    assert run["run"] == ("1 x 16/64, mean of 3 seeds", "FINISHED", 1000, 3000)
    assert ("valid/unseen/ndcg_at_10", 0.09, 3000, 1) in run["latest_metrics"]
    assert "pareto_not_told_apart_from" not in dict(run["tags"])


@pytest.mark.parametrize("after", [False, True], ids=["before a call", "after a call"])
def test_a_crash_in_a_configuration_leaves_one_whole_run_once_recorded_again(store, configuration, after):
    counting = SweepRecorder(store, uuid.uuid4().hex, start_ms=500)
    counting._client = CrashingClient(counting._client, 0, after)
    expected = held(store, counting.record_configuration(configuration))
    for crash_at in range(1, counting._client.calls + 1):
        sweep_id = uuid.uuid4().hex
        crashing = SweepRecorder(store, sweep_id, start_ms=500)
        crashing._client = CrashingClient(crashing._client, crash_at, after)
        with pytest.raises(KeyboardInterrupt):
            crashing.record_configuration(configuration)
        resumed = SweepRecorder(store, sweep_id, start_ms=500)
        run_id = resumed.record_configuration(configuration)
        assert children(store, resumed) == [run_id]
        assert held(store, run_id) == expected


def test_views_of_the_runs_are_kept_with_the_experiment(store, sweep_id):
    recorder = SweepRecorder(store, sweep_id, start_ms=500)
    links = recorder.share_views("valid/unseen/ndcg_at_10")
    assert recorder.share_views("valid/unseen/ndcg_at_10") == links
    with database(store) as connection:
        kept = dict(connection.execute("select key, value from experiment_tags"))
    for link in links.values():
        (key,) = parse_qs(link.partition("?")[2])["viewStateShareKey"]
        view = json.loads(kept[f"mlflow.sharedViewState.{key}"])
        assert view["orderByKey"] == "metrics.`valid/unseen/ndcg_at_10`" and not view["orderByAsc"]
        assert f"'{sweep_id}'" in view["searchFilter"]


def test_what_the_database_refuses_is_raised_and_not_printed(store, tmp_path, record, caplog):
    database = tmp_path / "mlflow.db"
    database.write_bytes(Path(store.removeprefix("sqlite:///")).read_bytes())
    recorder = SweepRecorder(f"sqlite:///{database}", "sweep", start_ms=1, experiment="another")
    with sqlite3.connect(database) as connection:
        connection.execute("drop table params")
    with pytest.raises(Exception, match="no such table: params"):
        recorder.record_trial(record)
    assert caplog.records == []
