"""What the progress display reads from a store, the time left, and the lines it prints."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import sweeps.store as store_module
from easrec.files import write_json
from easrec.models.architecture import Architecture
from easrec.training import EpochReport
from sweeps.bounds import Budget
from sweeps.presets import quick
from sweeps.progress import Snapshot, StageState, Watcher, time_left_s
from sweeps.reporter import Countdown, ProgressReporter, duration_text, status_line
from sweeps.rungs import Reached, Verdict
from sweeps.store import PROGRESS, Store, Workspace, now_ms
from sweeps.trial import TrialConfig

ARCHITECTURE = Architecture(32, 128, 1, 4)


def a_trial(tradeoff: float = 0.1) -> TrialConfig:
    preset = quick()
    return TrialConfig(
        space=preset.space,
        search=replace(preset.search, tradeoff=tradeoff),
        retrain=preset.retrain,
        transfer_from="warm",
        data_checksum="data",
        code_version="code",
        device="cpu",
        threads=1,
        warmup_threads=2,
    )


def report(stage: str, epoch: int, num_epochs: int, duration_s: float) -> dict[str, object]:
    return EpochReport(stage, epoch, num_epochs, {"loss": 1.0}, duration_s, now_ms(), 1.0).to_dict()  # type: ignore[arg-type]


def finish(store: Store, kind: str, key: str, **value: object) -> None:
    store.get_or_compute(kind, key, lambda entry: dict(value))


def finish_training(store: Store, trial: TrialConfig) -> None:
    finish(store, "warm", trial.warm_key, epochs=[report("warmup", 1, 5, 2.0)])
    finish(
        store,
        "search",
        trial.search_key,
        epochs=[report("search", 1, 5, 4.0)],
        architecture=ARCHITECTURE.to_dict(),
    )
    finish(
        store,
        "retrain",
        trial.retrain_key(ARCHITECTURE),
        epochs=[report("retrain", epoch, 60, 1.0) for epoch in (1, 2)],
        best_epoch=1,
        metrics={"valid/full/ndcg_at_10": 0.5, "valid/unseen/ndcg_at_10": 0.0912},
    )


def test_a_new_sweep_waits_for_its_one_warm_up(tmp_path: Path) -> None:
    trials = [a_trial(), a_trial(3.0)]
    snapshot = Watcher(trials, Store(tmp_path), since_ms=0).snapshot()
    stages = [state.stage for state in snapshot.stages.values()]
    assert stages == ["warm-up", "search", "search"]  # shared by both trials
    assert {state.status for state in snapshot.stages.values()} == {"waiting"}
    assert (snapshot.num_trials, snapshot.num_finished, snapshot.num_unknown) == (2, 0, 2)


def test_a_running_stage_shows_its_latest_epoch(tmp_path: Path) -> None:
    store, trial = Store(tmp_path), a_trial()
    seen = []

    def compute(workspace: Workspace) -> dict[str, object]:
        watcher = Watcher([trial], store, since_ms=0)
        seen.append(next(iter(watcher.snapshot().stages.values())))
        write_json(workspace.directory / PROGRESS, report("warmup", 2, 5, 7.5))
        seen.append(next(iter(watcher.snapshot().stages.values())))
        return {"epochs": []}

    store.get_or_compute("warm", trial.warm_key, compute)
    assert [(state.status, state.epoch) for state in seen] == [("running", 0), ("running", 2)]
    assert seen[1].durations_s == (7.5,)


def test_an_attempt_of_an_earlier_run_does_not_count_as_running(tmp_path: Path) -> None:
    store, trial = Store(tmp_path), a_trial()

    def dies(workspace: Workspace) -> dict[str, object]:
        write_json(workspace.directory / PROGRESS, report("warmup", 2, 5, 7.5))
        raise OSError

    with pytest.raises(OSError):
        store.get_or_compute("warm", trial.warm_key, dies)
    states = Watcher([trial], store, since_ms=now_ms() + 1).snapshot().stages.values()
    # Its epochs do count: the warm-up resumes after them.
    assert [(state.status, state.epoch) for state in states] == [("waiting", 2), ("waiting", 0)]


def test_trials_that_share_a_retraining_finish_together(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = a_trial(), a_trial(3.0)
    finish_training(store, first)
    value = store.entry("search", first.search_key).value()
    finish(store, "search", second.search_key, **value)
    snapshot = Watcher([first, second], store, since_ms=0).snapshot()
    assert (snapshot.num_finished, snapshot.num_unknown) == (2, 0)
    assert len([s for s in snapshot.stages.values() if s.stage == "retraining"]) == 1


def test_a_failed_warm_up_fails_every_trial_of_its_seed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    trials = [a_trial(), a_trial(3.0)]
    write_json(
        store.entry("warm", trials[0].warm_key).directory / "result.json",
        {"value": {}, "error": "the loss is nan", "start_ms": 1, "end_ms": 2},
    )
    snapshot = Watcher(trials, store, since_ms=0).snapshot()
    assert (snapshot.num_failed, snapshot.num_unknown) == (2, 0)


def test_a_look_reads_what_is_being_computed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    trials = [a_trial(0.1 * number) for number in range(50)]
    for trial in trials[:20]:
        finish_training(store, trial)
    watcher = Watcher(trials, store, since_ms=0)
    first = watcher.snapshot()
    assert (first.num_finished, first.num_unknown) == (20, 30)
    asked = []
    read = store_module.read_json

    def reading(path: Path) -> object:
        asked.append(path.relative_to(tmp_path).parts[1])
        return read(path)

    monkeypatch.setattr(store_module, "read_json", reading)
    assert watcher.snapshot() == first
    assert asked == [], "what is finished does not change, and what nobody has begun has nothing"

    def looked_at(workspace: Workspace) -> dict[str, object]:
        write_json(workspace.directory / PROGRESS, report("search", 2, 5, 7.5))
        asked.clear()
        stages = watcher.snapshot().stages
        assert stages[f"search/{trials[30].search_key}"].epoch == 2
        return {"epochs": [], "architecture": ARCHITECTURE.to_dict()}

    store.get_or_compute("search", trials[30].search_key, looked_at)
    assert set(asked) == {trials[30].search_key}


def state(stage: str, status: str, epoch: int, num_epochs: int, *durations_s: float) -> StageState:
    return StageState(stage, "x", status, epoch, num_epochs, durations_s, "")  # type: ignore[arg-type]


def test_time_left_counts_the_epochs_to_come_with_the_mean_of_their_stage() -> None:
    snapshot = Snapshot(
        stages={
            "warm": state("warm-up", "running", 3, 5, 10.0),
            "one": state("search", "finished", 2, 2, 4.0, 6.0),
            "two": state("search", "waiting", 0, 2),
            "retrain": state("retraining", "finished", 12, 60, *[2.0] * 12),
        },
        num_trials=2,
        num_finished=1,
        num_failed=0,
        num_unknown=1,
    )
    warm_up_s = 2 * 10.0
    search_s = 2 * 5.0
    retraining_s = 12 * 2.0  # as long as the one that ended
    expected = warm_up_s + (search_s + retraining_s) / 2
    assert time_left_s(snapshot, slots=2, patience=5) == pytest.approx(expected)


def test_time_left_is_unknown_before_an_epoch_has_been_timed_and_zero_at_the_end() -> None:
    waiting = Snapshot({"warm": state("warm-up", "waiting", 0, 5)}, 1, 0, 0, 1)
    assert time_left_s(waiting, slots=2, patience=5) is None
    done = Snapshot({"a": state("retraining", "finished", 3, 60, 1.0, 1.0, 1.0)}, 1, 1, 0, 0)
    assert time_left_s(done, slots=2, patience=5) == 0.0


def test_the_time_left_runs_down_between_two_estimates() -> None:
    countdown = Countdown()
    assert countdown.left_s(None, 5.0) is None
    assert countdown.left_s(100.0, 10.0) == 100.0
    assert countdown.left_s(100.0, 40.0) == 70.0
    assert countdown.left_s(80.0, 41.0) == 80.0
    assert countdown.left_s(80.0, 200.0) == 0.0


def test_the_status_line_tells_trials_stages_rate_and_time() -> None:
    snapshot = Snapshot({"a": state("search", "running", 2, 5, 1.0)}, 6, 1, 1, 4)
    line = status_line(snapshot, epochs_per_s=0.321, left_s=95)
    assert line == (
        "1 of 6 trials trained, 1 failed; running: search (x) 2/5; 0.32 epochs/s; about 1 min 35 s left"
    )


def test_a_stopped_retraining_is_neither_running_nor_waited_for(tmp_path: Path) -> None:
    store, first, second = Store(tmp_path), a_trial(), a_trial(3.0)
    for trial in (first, second):
        finish(store, "warm", trial.warm_key, epochs=[report("warmup", 1, 5, 2.0)])
        found = {"epochs": [report("search", 1, 5, 4.0)], "architecture": ARCHITECTURE.to_dict()}
        finish(store, "search", trial.search_key, **found)

    def dies(workspace: Workspace) -> dict[str, object]:
        workspace.record(report("retrain", 4, 60, 1.0))
        raise OSError

    with pytest.raises(OSError):
        store.get_or_compute("retrain", first.retrain_key(ARCHITECTURE), dies)
    verdicts: dict[str, Verdict] = {}
    watcher = Watcher([first, second], store, since_ms=0, stopped=verdicts.get)
    running = watcher.snapshot()
    assert running.num_stopped == 0
    assert "running" in {state.status for state in running.stages.values()}
    key = first.retrain_key(ARCHITECTURE)
    reached = Reached(subject=key, architecture="x", seed=0, epoch=4, accuracy=0.1, costs={"flops": 2.0})
    verdicts[key] = Verdict(reached, replace(reached, architecture="y", accuracy=0.2), 1)
    snapshot = watcher.snapshot()
    assert (snapshot.num_finished, snapshot.num_stopped, snapshot.num_unknown) == (0, 2, 0)
    (state,) = (state for state in snapshot.stages.values() if state.stage == "retraining")
    assert (state.status, state.epoch) == ("stopped", 4)
    assert state.outcome.startswith("stopped: after epoch 4 of its retraining x had reached 0.1000")
    assert time_left_s(snapshot, slots=2, patience=5) == 0.0
    assert status_line(snapshot, epochs_per_s=0.0, left_s=None).startswith(
        "0 of 2 trials trained, 2 stopped;"
    )


def test_stages_are_announced_once_and_those_of_an_earlier_run_never(tmp_path: Path) -> None:
    store, trial = Store(tmp_path), a_trial()
    finish(store, "warm", trial.warm_key, epochs=[report("warmup", 1, 5, 2.0)])
    text = io.StringIO()
    console = Console(file=text, width=200)
    reporter = ProgressReporter(
        Watcher([trial], store, since_ms=0), console, slots=1, patience=5, elapsed_s=lambda: 65.0
    )
    with reporter:
        finish_training(store, trial)
    lines = text.getvalue().splitlines()
    assert lines[0].endswith("0 of 1 trials are trained already; they are not repeated")
    assert lines[1:] == [
        "01:05  search (lambda 0.1, seed 0): 1 epoch in 4 s, derived 1 layer of 32 hidden and 128 inner "
        "dimensions",
        "01:05  retraining (lambda 0.1, seed 0): 2 epochs in 2 s, best epoch 1, "
        "valid/unseen/ndcg_at_10 0.0912",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (3599.6, "1 h 0 min"), (7300, "2 h 1 min")]
)
def test_durations_round_before_they_are_split(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_trials_may_be_decided_on_later_and_some_need_nothing(tmp_path: Path) -> None:
    store, first, over = Store(tmp_path), a_trial(), a_trial(3.0)
    budget = Budget(max_flops=1, max_length=50, num_items=100)
    watcher = Watcher([first], store, since_ms=0, num_trials=4)
    assert [watcher.snapshot().num_trials, watcher.snapshot().num_unknown] == [4, 4]
    finish_training(store, first)
    watcher.add([replace(over, budget=budget)])
    watcher.skip(1)
    snapshot = watcher.snapshot()
    assert (snapshot.num_trials, snapshot.num_finished, snapshot.num_unknown) == (4, 2, 2)
    # The search of the second derives a network over its budget, whose retraining is not waited for.
    finish(
        store,
        "search",
        over.search_key,
        epochs=[report("search", 1, 5, 4.0)],
        architecture=ARCHITECTURE.to_dict(),
    )
    snapshot = watcher.snapshot()
    assert (snapshot.num_trials, snapshot.num_finished, snapshot.num_unknown) == (4, 3, 1)
    assert [state.status for state in snapshot.stages.values()] == ["finished"] * 4
