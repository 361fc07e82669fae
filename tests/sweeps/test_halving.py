"""Retrainings that are stopped: nothing goes on computing, nothing stays locked, nothing is forgotten."""

import dataclasses
import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from optuna.trial import TrialState

from sweeps.cluster import ray_cluster  # before Ray, whose settings it chooses
from sweeps.config import SweepConfig

from easrec.data.sequences import SplitData, leave_one_out  # isort: skip
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import DiskFullError, InputError
from easrec.files import read_json
from easrec.models.architecture import Architecture
from easrec.nas.resources import network_flops
from sweeps.command_line import parse
from sweeps.coordinator import Coordinator
from sweeps.data import load_data
from sweeps.explore_config import ExploreConfig
from sweeps.explore_plan import budget_of, explored_preset, space_of
from sweeps.explore_plan import trials_of as trials_of_point
from sweeps.halving import Halving, HalvingScheduler, StoppedError
from sweeps.objects import open_storage
from sweeps.plan import build_trials, preset_of
from sweeps.remote_store import RemoteStore
from sweeps.rungs import HALVING, Reached, Rungs
from sweeps.samplers import make_sampler
from sweeps.store import PROGRESS, DirectoryEntry, Store, code_version
from sweeps.study import SweepStudy, load_study, point_of, study_name
from sweeps.study import open_storage as open_study_storage
from sweeps.trainable import SharedData
from sweeps.trial import TrialConfig, run_trial
from sweeps.tuner import train_trials
from tests.sweeps.halved_sweep import (
    BAD,
    EPOCHS,
    GOOD,
    MAX_LENGTH,
    OPTIONS,
    SMALL,
    derive,
    trials_of,
    write_log,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data() -> SplitData:
    return leave_one_out(synthetic_interactions(150, 40, 12, seed=2))


@dataclasses.dataclass
class Stub:
    """Stops everything after an epoch, or never."""

    last_epoch: int | None = None
    raised: type[BaseException] = StoppedError
    stopped: bool = False
    seen: list[Reached] = dataclasses.field(default_factory=list)

    def check(self, subject: str) -> None:
        if self.stopped:
            raise StoppedError

    def report(self, reached: Reached) -> None:
        self.seen.append(reached)
        if reached.epoch == self.last_epoch:
            self.stopped = True
            raise self.raised


class Killed(BaseException):
    """A process that dies."""


def entry_of(store: Store, trial: TrialConfig, architecture: Architecture) -> DirectoryEntry:
    entry = store.entry("retrain", trial.retrain_key(architecture))
    assert isinstance(entry, DirectoryEntry)
    return entry


def epochs_on_disk(entry: DirectoryEntry) -> int:
    return int(read_json(entry.directory / PROGRESS)["epoch"])


def unfinished_files(root: Path) -> list[Path]:
    return list(root.rglob(".unfinished*"))


def test_a_stopped_retraining_lets_go_and_another_sweep_goes_on_with_it(
    tmp_path: Path, data: SplitData
) -> None:
    (trial,) = trials_of([0.0], data)
    store, whole = Store(tmp_path / "store"), Store(tmp_path / "whole")
    for each in (store, whole):
        derive(trial, GOOD, each)
    judge = Stub(last_epoch=3)
    with pytest.raises(StoppedError):
        run_trial(trial, data, store, judge=judge)
    entry = entry_of(store, trial, GOOD)
    assert entry.result() is None and epochs_on_disk(entry) == 3
    assert not unfinished_files(tmp_path)
    with entry.held("defer"):
        pass  # nobody holds it
    # Asked again, it is not even begun.
    attempts = entry.attempts()
    with pytest.raises(StoppedError):
        run_trial(trial, data, store, judge=judge)
    assert entry.attempts() == attempts and epochs_on_disk(entry) == 3
    # A sweep that does not halve finishes it from its checkpoint, to the same digits.
    run_trial(trial, data, store)
    run_trial(trial, data, whole)
    ours, theirs = entry.value(), entry_of(whole, trial, GOOD).value()
    assert ours["metrics"] == theirs["metrics"] and len(ours["epochs"]) == EPOCHS
    assert [epoch["timestamp_ms"] for epoch in ours["epochs"]] == sorted(
        epoch["timestamp_ms"] for epoch in ours["epochs"]
    )


def test_a_judge_is_told_of_the_best_so_far_and_of_the_end(tmp_path: Path, data: SplitData) -> None:
    (trial,) = trials_of([0.0], data)
    store, judge = Store(tmp_path), Stub()
    derive(trial, GOOD, store)
    run_trial(trial, data, store, judge=judge)
    epochs = entry_of(store, trial, GOOD).value()["epochs"]
    accuracies = [epoch["metrics"]["valid/unseen/ndcg_at_10"] for epoch in epochs]
    assert [one.accuracy for one in judge.seen] == [max(accuracies[: n + 1]) for n in range(EPOCHS)]
    assert [(one.epoch, one.last) for one in judge.seen] == [(n, n == EPOCHS) for n in range(1, EPOCHS + 1)]
    assert {one.subject for one in judge.seen} == {trial.retrain_key(GOOD)}
    # Patience ends a retraining too: an epoch that is the last by it says so.
    short = dataclasses.replace(
        trial, retrain=dataclasses.replace(trial.retrain, patience=1, learning_rate=1e-9)
    )
    judge = Stub()
    derive(short, GOOD, store)
    run_trial(short, data, store, judge=judge)
    assert len(judge.seen) < EPOCHS
    assert [one.last for one in judge.seen] == [False] * (len(judge.seen) - 1) + [True]


def test_a_judge_is_told_the_latency_that_a_search_went_by(tmp_path: Path, data: SplitData) -> None:
    (trial,) = trials_of([0.0], data)
    trial = dataclasses.replace(trial, search=dataclasses.replace(trial.search, resource="latency"))
    store, judge = Store(tmp_path), Stub(last_epoch=1)
    derive(trial, BAD, store, latencies_ms=[0.5, 0.25], candidate=1)
    with pytest.raises(StoppedError):
        run_trial(trial, data, store, judge=judge)
    (one,) = judge.seen
    assert one.costs == {"flops": network_flops(BAD, MAX_LENGTH), "latency_ms": 3 * 0.25}
    assert (one.architecture, one.seed) == (BAD.architecture_id, 0)


def test_a_retraining_that_died_before_it_was_judged_is_judged_by_the_same(
    tmp_path: Path, data: SplitData
) -> None:
    (trial,) = trials_of([0.0], data)
    store, undisturbed, dying, resumed = Store(tmp_path / "a"), Stub(), Stub(4, Killed), Stub()
    derive(trial, GOOD, store)
    derive(trial, GOOD, Store(tmp_path / "b"))
    run_trial(trial, data, Store(tmp_path / "b"), judge=undisturbed)
    with pytest.raises(Killed):
        run_trial(trial, data, store, judge=dying)
    run_trial(trial, data, store, judge=resumed)
    assert dying.seen == undisturbed.seen[:4]
    assert resumed.seen == undisturbed.seen[3:]


def test_a_trial_that_waits_for_a_retraining_stops_with_it(tmp_path: Path, data: SplitData) -> None:
    first, second = trials_of([0.0, 1.0], data)
    store = Store(tmp_path)
    for trial in (first, second):
        derive(trial, GOOD, store)
    begun, asked = threading.Event(), threading.Event()

    class Waiting(Stub):
        """Lets the other trial begin to wait before it stops."""

        def report(self, reached: Reached) -> None:
            begun.set()
            assert asked.wait(60)
            super().report(reached)

    judge = Waiting(last_epoch=2)
    ends: list[type[BaseException]] = []

    def run(trial: TrialConfig, own: Any) -> None:
        try:
            run_trial(trial, data, store, judge=own, on_busy="wait")
        except StoppedError as error:
            ends.append(type(error))

    class Asking(Stub):
        """Of the second trial: told what the first one's judge has found."""

        def check(self, subject: str) -> None:
            asked.set()
            judge.check(subject)

    asking = Asking()
    threads = [threading.Thread(target=run, args=(first, judge))]
    threads[0].start()
    assert begun.wait(60)
    threads.append(threading.Thread(target=run, args=(second, asking)))
    threads[1].start()
    for thread in threads:
        thread.join(120)
    assert ends == [StoppedError, StoppedError]
    assert asking.seen == [] and epochs_on_disk(entry_of(store, first, GOOD)) == 2


def test_what_cannot_be_written_down_stops_no_trial_and_is_told_at_the_end() -> None:
    def full(reached: Reached) -> None:
        raise DiskFullError("no room for halving.json")

    scheduler = HalvingScheduler(full)
    one = Reached(subject="a", architecture="a", seed=0, epoch=1, accuracy=0.1, costs={"flops": 1.0})
    assert scheduler.on_trial_result(None, None, one.to_dict() | {"trial_id": "x"}) == "CONTINUE"
    assert isinstance(scheduler.error, DiskFullError)


def test_a_verdict_that_a_dead_driver_had_not_passed_on_is_passed_on(tmp_path: Path) -> None:
    rungs = Rungs.open(tmp_path / HALVING, first=1, factor=3)
    good = Reached(subject="g", architecture="g", seed=0, epoch=1, accuracy=0.2, costs={"flops": 1.0})
    bad = dataclasses.replace(good, subject="b", architecture="b", accuracy=0.1)
    rungs.judge(good, 1)
    assert rungs.judge(bad, 1) is not None  # and here it dies
    store = Store(tmp_path / "store")
    halving = Halving(Rungs.open(tmp_path / HALVING, first=1, factor=3), store, "sweep")
    with pytest.raises(StoppedError, match="after epoch 1 of its retraining b had reached"):
        halving.trial_side.judge(store).check("b")
    halving.trial_side.judge(store).check("g")
    # Of this sweep alone: another one that shares the store has verdicts of its own.
    Halving(Rungs(1), store, "other").trial_side.judge(store).check("b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--halve-after", "0"], "--halve-after must be at least 1 epoch, got 0"),
        (["--halve-factor", "2"], "--halve-factor needs --halve-after"),
        (["--halve-after", "1", "--halve-factor", "1"], "--halve-factor must be at least 2, got 1"),
        (["--halve-after", "100"], "--halve-after 100 stops nothing: a retraining has at most 100 epochs"),
    ],
)
@pytest.mark.parametrize("kind", [SweepConfig, ExploreConfig])
def test_options_that_cannot_be_meant_are_refused(
    kind: type[SweepConfig], words: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        config = parse(kind, "test", words)
        config.check()
        preset_of(config)


@pytest.mark.slow
def test_ray_ends_what_is_beaten_and_the_next_trial_on_its_process_is_well(
    tmp_path: Path, data: SplitData
) -> None:
    trials = trials_of([0.0, 1.0, 2.0, 3.0], data)
    networks = [GOOD, BAD, BAD, SMALL]
    store = Store(tmp_path / "store")
    for trial, network in zip(trials, networks, strict=True):
        derive(trial, network, store)
    ended: list[str] = []

    def train(some: list[TrialConfig]) -> dict[str, str]:
        rungs = Rungs.open(tmp_path / HALVING, first=2, factor=2)
        return train_trials(
            some,
            SharedData.put(data),
            store,
            dataclasses.replace(cluster, resources={"CPU": float(cluster.cpus)}),  # one after the other
            on_busy="wait",
            on_end=ended.append,
            halving=Halving(rungs, store, "sweep"),
        )

    with ray_cluster(SweepConfig()) as cluster:
        assert train(trials) == {}
        assert ended == [trial.trial_id for trial in trials]
        good, bad, _, small = (entry_of(store, *pair) for pair in zip(trials, networks, strict=True))
        assert len(good.value()["epochs"]) == len(small.value()["epochs"]) == EPOCHS
        assert bad.result() is None and epochs_on_disk(bad) == 2
        with bad.held("defer"):
            pass
        rungs = Rungs.open(tmp_path / HALVING, first=2, factor=2)
        assert [verdict.reached.architecture for verdict in rungs.stopped.values()] == [BAD.architecture_id]
        assert sorted(rungs.rungs) == [2, 4, 8]
        # A driver that begins anew: what was stopped stays so, and nothing is trained.
        attempts = bad.attempts()
        assert train(trials) == {}
        assert bad.attempts() == attempts and epochs_on_disk(bad) == 2
    assert not unfinished_files(tmp_path)


def mlflow_trials(output: Path) -> dict[str, dict[str, str]]:
    """By trial id, the status of its run, its tags, and params with `param.` before their names."""
    with sqlite3.connect(output / "mlflow.db") as database:
        rows = database.execute(
            "select r.run_uuid, r.status, t.key, t.value from runs r join tags t on t.run_uuid = r.run_uuid "
            "union all select r.run_uuid, r.status, 'param.' || p.key, p.value from runs r "
            "join params p on p.run_uuid = r.run_uuid"
        ).fetchall()
    runs: dict[str, dict[str, str]] = {}
    for run, status, name, value in rows:
        runs.setdefault(run, {"status": status})[name] = value
    return {run["easrec.trial_id"]: run for run in runs.values() if "easrec.trial_id" in run}


def stored(root: Path) -> dict[str, int]:
    """Every file of a storage and when it was written, without the locks of its writers."""
    return {
        str(path.relative_to(root)): path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def run(words: list[str]) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.slow
def test_a_sweep_with_halving_reports_what_it_stopped_and_does_not_train_it_again(tmp_path: Path) -> None:
    write_log(tmp_path / "log.csv")
    storage, output = tmp_path / "storage", tmp_path / "sweep"
    options = [
        "--data", str(tmp_path / "log.csv"), "--storage", str(storage), "--output", str(output), *OPTIONS,
        "--tradeoffs", "0", "1", "2", "3", "--halve-after", "2", "--halve-factor", "2",
    ]  # fmt: skip
    config = parse(SweepConfig, "test", options)
    preset = preset_of(config)
    split = load_data(config, preset).split
    # Searches that another sweep has left on the storage: no two machines derive the same otherwise.
    store = RemoteStore(open_storage(str(storage)), Coordinator())
    trials = build_trials(config, preset, split, device="cpu", code_version=code_version())
    networks = {0.0: GOOD, 1.0: BAD, 2.0: BAD, 3.0: SMALL}
    for trial in trials:
        derive(trial, networks[trial.tradeoff], store)
    command = [str(ROOT / "pipelines" / "lambda_sweep.py"), *options]
    text = run(command)

    halved = json.loads((output / HALVING).read_text())
    (verdict,) = halved["stopped"]
    epoch = verdict["reached"]["epoch"]
    assert epoch in (2, 4)  # of 8: where the good one had come first
    assert verdict["reached"]["architecture"] == BAD.architecture_id
    key = verdict["reached"]["subject"]
    assert not (storage / "retrain" / f"{key}.json").exists()
    checkpoint = json.loads((storage / "retrain" / key / "checkpoint.json").read_text())
    assert checkpoint["report"]["epoch"] == epoch, "it did not go on"

    frame = pd.read_parquet(output / "results.parquet").set_index("tradeoff")
    assert frame["status"].to_dict() == {0.0: "finished", 1.0: "stopped", 2.0: "stopped", 3.0: "finished"}
    bad = frame.loc[[1.0, 2.0]]
    assert not bad["pareto"].any() and bad["valid/unseen/ndcg_at_10"].isna().all()
    assert bad["latency_ms_p50"].isna().all() and frame.loc[[0.0, 3.0], "latency_ms_p50"].notna().all()
    assert bad["error"].str.startswith(f"after epoch {epoch} of its retraining {BAD.architecture_id}").all()
    configurations = pd.read_parquet(output / "configurations.parquet")
    assert set(configurations["architecture_id"]) == {GOOD.architecture_id, SMALL.architecture_id}
    assert f"2 of 4 trials stopped early by --halve-after: 2 after epoch {epoch}" in text
    assert f"lambda 1, seed 0 stopped: after epoch {epoch}" in text
    assert "2 architectures (1 warm-up and 2 retrainings shared by 2 trials)" in text

    runs = mlflow_trials(output)
    assert len(runs) == 4
    for trial in trials:
        own = runs[trial.trial_id]
        assert (own["param.halve_after"], own["param.halve_factor"]) == ("2", "2")
        if networks[trial.tradeoff] is BAD:
            assert own["status"] == "KILLED" and own["easrec.stopped_epoch"] == str(epoch)
            assert own["easrec.stopped"] == bad.loc[trial.tradeoff, "error"]
        else:
            assert own["status"] == "FINISHED" and "easrec.stopped" not in own
    settings = json.loads((output / "sweep.json").read_text())["settings"]
    assert (settings["--halve-after"], settings["--halve-factor"]) == (2, 2)
    report = run([str(ROOT / "pipelines" / "pareto_report.py"), "--output", str(output)])
    assert "2 finished trials of 1 sweep" in report and "; 2 were stopped early" in report

    before, rows = stored(storage), pd.read_parquet(output / "results.parquet")
    again = run([*command, "--resume"])
    assert stored(storage) == before, "something was trained or judged again"
    assert pd.read_parquet(output / "results.parquet").equals(rows)
    assert "2 of 4 trials stopped early" in again
    assert mlflow_trials(output).keys() == runs.keys()


@pytest.mark.slow
def test_points_of_an_exploration_that_are_stopped_are_pruned(tmp_path: Path) -> None:
    write_log(tmp_path / "log.csv")
    storage, output = tmp_path / "storage", tmp_path / "sweep"
    options = [
        "--data", str(tmp_path / "log.csv"), "--storage", str(storage), "--output", str(output), *OPTIONS,
        "--space", "lambda", "--sampler", "random", "--trials", "3", "--batch", "1",
        "--max-flops", "10000000", "--halve-after", "2", "--halve-factor", "2",
    ]  # fmt: skip
    config = parse(ExploreConfig, "test", options)
    preset = explored_preset(config)
    split = load_data(config, preset).split
    space = space_of(config, preset)
    budget = budget_of(config, preset, space, split)
    # A random sampler goes by seed and number alone, so these are the points that will be tried.
    drawn = SweepStudy(
        open_study_storage(None, tmp_path),
        "drawn",
        objectives=config.objectives,
        parameters=space.parameters(),
        settings={"batch": 3},
        facts={},
        sampler=lambda _: make_sampler(
            "random", seed=0, parameters=list(space.parameters()), startup=2, population=4
        ),
    ).ask(3)
    store = RemoteStore(open_storage(str(storage)), Coordinator())
    networks = [GOOD, BAD, SMALL]
    for point, network in zip(drawn, networks, strict=True):
        (trial,) = trials_of_point(
            point_of(point), config, preset, split, budget, device="cpu", code_version=code_version()
        )
        derive(trial, network, store)
    command = [str(ROOT / "pipelines" / "explore.py"), *options]
    text = run(command)

    name = study_name(json.loads((output / "sweep.json").read_text())["sweep_id"])
    told = load_study(name, open_study_storage(None, output)).get_trials(deepcopy=False)
    assert [trial.params for trial in told] == [trial.params for trial in drawn]
    # Batches of one: the good one has ended before the bad one begins.
    assert [trial.state for trial in told] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]
    assert told[1].values is None and told[1].constraints["flops"] < 0
    assert told[1].user_attrs["stopped"].startswith(f"after epoch 2 of its retraining {BAD.architecture_id}")
    assert "2 finished, 0 refused, 1 stopped, 0 failed" in text
    frame = pd.read_parquet(output / "results.parquet").set_index("trial_id")
    (bad,) = told[1].user_attrs["trials"]
    assert frame.loc[bad, "status"] == "stopped" and not frame.loc[bad, "pareto"]
    assert set(frame["architecture_id"].dropna()) == {GOOD.architecture_id, SMALL.architecture_id}
    assert mlflow_trials(output)[bad]["status"] == "KILLED"
    before = stored(storage)
    run([*command, "--resume"])
    assert stored(storage) == before
    again = load_study(name, open_study_storage(None, output)).get_trials(deepcopy=False)
    assert [trial.state for trial in again] == [trial.state for trial in told]
