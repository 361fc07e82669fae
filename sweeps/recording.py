"""Records trials in MLflow as they finish, from a thread of its own: a slow server holds up no trial."""

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from easrec.errors import InputError
from sweeps.progress import trial_label
from sweeps.results import TrialRecord
from sweeps.tracking import SweepRecorder

RETRY_AFTER_S = 30.0
"""Seconds during which nothing more is sent to an MLflow that has just failed."""


class TrialRecording:
    """Takes finished trials between `with` and its end, and writes them one after the other.

    What MLflow does not take is said once and left: a sweep writes all its trials again at its end, where
    errors count.
    """

    def __init__(
        self,
        connect: Callable[[], SweepRecorder],
        record: Callable[[Any], TrialRecord | None],
        say: Callable[[str], None],
        label: Callable[[Any], str] = trial_label,
    ) -> None:
        """Prepare; nothing is connected before `with`.

        Args:
            connect: opens the sweep's run, making it if it is missing.
            record: what is known of a trial, or None if it has not finished.
            say: prints a line.
            label: how people call a trial.
        """
        self.recorder: SweepRecorder | None = None
        """Of the sweep's run, once that could be opened."""
        self._connect = connect
        self._record = record
        self._say = say
        self._label = label
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._silent_until_s = 0.0
        # A daemon: a sweep that is stopped does not wait for a server that has gone.
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)

    def __enter__(self) -> "TrialRecording":
        """Open the sweep's run; `InputError` where that can never be."""
        self._attempt("the sweep", self._open)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until all is written, unless the sweep was stopped."""
        if kind is not None:
            self._stopped.set()
        self._ended.put(None)
        if kind is None:
            self._thread.join()

    def ended(self, trial: Any) -> None:
        """Have a trial recorded that ended, if it has finished; returns at once."""
        self._ended.put(trial)

    def _run(self) -> None:
        while (trial := self._ended.get()) is not None and not self._stopped.is_set():
            if time.monotonic() >= self._silent_until_s:
                self._attempt(self._label(trial), partial(self._write, trial))

    def _open(self) -> SweepRecorder:
        if self.recorder is None:
            self.recorder = self._connect()
        return self.recorder

    def _write(self, trial: Any) -> None:
        record = self._record(trial)
        if record is not None:
            self._open().record_trial(record)

    def _attempt(self, what: str, write: Callable[[], object]) -> None:
        try:
            write()
        except InputError:
            if threading.current_thread() is not self._thread:
                raise
        except Exception as error:  # whatever MLflow, its database or the network came up with
            self._silent_until_s = time.monotonic() + RETRY_AFTER_S
            if not self._stopped.is_set():
                self._say(f"MLflow did not take {what} for now ({error}); it is tried again at the end")
