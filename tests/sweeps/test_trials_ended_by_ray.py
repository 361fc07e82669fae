"""Trials whose processes Ray's memory monitor ended, which Ray Tune takes for the end of everything."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import TuneError

import sweeps.tuner as tuner_module
from sweeps.tuner import MAX_RETRIES, train_trials

TRIALS = [SimpleNamespace(trial_id=name) for name in ("a", "b", "c")]
REASON = "OutOfMemoryError: Ray ended its process, since the memory of its machine was almost used up"


def out_of_memory() -> RuntimeError:
    """What comes out of Tune's `fit`."""
    error = RuntimeError("Caught unexpected exception: Task was killed due to the node running low on memory")
    error.__cause__ = tuner_module.OutOfMemoryError("Task was killed\nRefer to the documentation")
    return error


def train(monkeypatch: pytest.MonkeyPatch, rounds: list[Any]) -> tuple[dict[str, str], list[str], list[Any]]:
    """What `train_trials` returns, whom it told the end of, and what was started in each round.

    A round is the trials that end in it, and what is raised then.
    """
    started, told = [], []

    def fit(trials: Any, *arguments: Any) -> None:
        watcher = arguments[-1]
        started.append([trial.trial_id for trial in trials])
        ends, error = rounds[len(started) - 1]
        for name in ends:
            watcher.on_trial_complete(1, [], SimpleNamespace(config={"trial": name}))
        if error is not None:
            raise error

    monkeypatch.setattr(tuner_module, "_fit", fit)
    nothing: Any = None
    crashed = train_trials(
        TRIALS,
        nothing,
        nothing,
        nothing,
        on_busy="wait",
        on_end=told.append,
        label=lambda trial: trial.trial_id,
    )
    return crashed, told, started


def test_those_without_an_end_are_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "sweeps.tuner"):
        found = train(monkeypatch, [(["a"], out_of_memory()), (["c", "b"], None)])
    assert found == ({}, ["a", "c", "b"], [["a", "b", "c"], ["b", "c"]])
    assert caplog.messages == [
        f"trials broke off ({REASON}); they are started again from their last checkpoints"
    ]


def test_those_that_never_end_fail_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = [(["b"], out_of_memory()), *[([], out_of_memory())] * MAX_RETRIES]
    crashed, told, started = train(monkeypatch, rounds)
    assert crashed == {"a": REASON, "c": REASON}
    assert told == ["b", "a", "c"]
    assert started[1:] == [["a", "c"]] * MAX_RETRIES


def test_a_worker_without_memory_for_its_next_trial_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune then raises the worker's traceback as text."""
    traceback = (
        "Traceback (most recent call last):\n  ...\nray.exceptions.RaySystemError: System error: MemoryError"
    )
    found = train(monkeypatch, [(["b"], TuneError(traceback)), (["a", "c"], None)])
    assert found == ({}, ["b", "a", "c"], [["a", "b", "c"], ["a", "c"]])


@pytest.mark.parametrize("kind", [RuntimeError, TuneError])
def test_any_other_error_of_tune_passes(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="a mistake"):
        train(monkeypatch, [([], kind("a mistake"))])
