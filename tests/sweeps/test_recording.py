"""Trials are recorded beside their training, and an MLflow that is away costs no trial."""

import threading
import time
from typing import Any

import pytest

from easrec.errors import InputError
from sweeps import recording
from sweeps.recording import TrialRecording
from sweeps.trial import TrialConfig
from tests.sweeps.test_trainable import a_trial


class Recorder:
    """Takes records, or fails while `broken` is set."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.broken = False
        self.calls = 0

    def record_trial(self, record: Any) -> str:
        self.calls += 1
        if self.broken:
            raise ConnectionError("the server is away")
        self.taken.append(record)
        return "run"


def record_of(trial: TrialConfig) -> Any:
    return ("record", trial.trial_id)


def test_all_that_ended_is_written_by_the_end() -> None:
    recorder, trial = Recorder(), a_trial()
    with TrialRecording(lambda: recorder, record_of, lambda text: None) as records:  # type: ignore[arg-type, return-value]
        for _ in range(3):
            records.ended(trial)
    assert recorder.taken == [("record", trial.trial_id)] * 3


def test_a_trial_that_has_not_finished_is_not_recorded() -> None:
    recorder = Recorder()
    with TrialRecording(lambda: recorder, lambda trial: None, lambda text: None) as records:  # type: ignore[arg-type, return-value]
        records.ended(a_trial())
    assert recorder.calls == 0


def test_an_mlflow_that_fails_is_said_once_and_then_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder, said = Recorder(), []
    recorder.broken = True
    with TrialRecording(lambda: recorder, record_of, said.append) as records:  # type: ignore[arg-type, return-value]
        for _ in range(5):
            records.ended(a_trial())
    assert recorder.calls == 1
    assert len(said) == 1 and "the server is away" in said[0] and "tried again at the end" in said[0]
    # Without the pause each is tried.
    monkeypatch.setattr(recording, "RETRY_AFTER_S", 0.0)
    with TrialRecording(lambda: recorder, record_of, said.append) as records:  # type: ignore[arg-type, return-value]
        for _ in range(5):
            records.ended(a_trial())
    assert recorder.calls == 6


def test_a_run_that_can_never_be_opened_stops_the_sweep_before_it_trains() -> None:
    def connect() -> Any:
        raise InputError("the experiment has been deleted")

    with (
        pytest.raises(InputError, match="has been deleted"),
        TrialRecording(connect, record_of, lambda text: None),
    ):
        raise AssertionError("nothing may be trained")


def test_an_interrupted_sweep_waits_for_no_server() -> None:
    recorder, hangs = Recorder(), threading.Event()

    def slow(record: Any) -> str:
        hangs.wait(60)
        return "run"

    recorder.record_trial = slow  # type: ignore[method-assign]
    start_s = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        TrialRecording(lambda: recorder, record_of, lambda text: None) as records,  # type: ignore[arg-type, return-value]
    ):
        records.ended(a_trial())
        raise KeyboardInterrupt
    assert time.monotonic() - start_s < 30
    hangs.set()
