"""Shows a sweep's progress while it runs: in place on a terminal, line by line elsewhere."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sweeps.progress import Snapshot, Watcher, time_left_s
from sweeps.storage_error import StorageError

POLL_S = 0.5
LINE_EVERY_S = 15.0

_ENDED = ("finished", "failed", "stopped")


def duration_text(seconds: float) -> str:
    """A duration as people say it.

    >>> duration_text(42), duration_text(200), duration_text(7300)
    ('42 s', '3 min 20 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def at(elapsed_s: float, text: str) -> str:
    """A line with minutes and seconds before it.

    >>> at(65.2, "half of it")
    '01:05  half of it'
    """
    minutes, seconds = divmod(round(elapsed_s), 60)
    return f"{minutes:02d}:{seconds:02d}  {text}"


def status_line(snapshot: Snapshot, *, epochs_per_s: float, left_s: float | None) -> str:
    """One line: trials finished, what runs, the rate, the time left."""
    parts = [f"{snapshot.num_finished} of {snapshot.num_trials} trials trained"]
    if snapshot.num_stopped:
        parts[0] += f", {snapshot.num_stopped} stopped"
    if snapshot.num_failed:
        parts[0] += f", {snapshot.num_failed} failed"
    running = [
        f"{state.stage} ({state.label}) {state.epoch}/{state.num_epochs}"
        for state in snapshot.stages.values()
        if state.status == "running"
    ]
    parts.append("running: " + (", ".join(running) if running else "nothing, processes are being started"))
    if epochs_per_s > 0:
        parts.append(f"{epochs_per_s:.2g} epochs/s")
    if left_s is not None:
        parts.append(f"about {duration_text(left_s)} left")
    return "; ".join(parts)


class Countdown:
    """Lets an estimate that changes at the end of epochs alone run down in between."""

    def __init__(self) -> None:
        self._estimate_s: float | None = None
        self._since_s = 0.0

    def left_s(self, estimate_s: float | None, now_s: float) -> float | None:
        """Seconds left at `now_s`, of an estimate that was made when it last changed."""
        if estimate_s != self._estimate_s:
            self._estimate_s, self._since_s = estimate_s, now_s
        return None if estimate_s is None else max(estimate_s - (now_s - self._since_s), 0.0)


class ProgressReporter:
    """Shows the progress of a sweep from a thread of its own, between `with` and its end.

    On a terminal it is a line that changes in place; elsewhere a line every 15 seconds. Each stage that
    finishes gets a line either way.
    """

    def __init__(
        self,
        watcher: Watcher,
        console: Console,
        *,
        slots: int,
        patience: int,
        elapsed_s: Callable[[], float],
    ) -> None:
        self._watcher = watcher
        self._console = console
        self._slots = slots
        self._patience = patience
        self._elapsed_s = elapsed_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._announced: set[str] = set()
        self._epochs_before = 0

    def __enter__(self) -> "ProgressReporter":
        first = self._watcher.snapshot()
        self._announced = {key for key, state in first.stages.items() if state.status in _ENDED}
        self._epochs_before = _num_epochs(first)
        if self._announced:
            self._say(
                f"{first.num_finished} of {first.num_trials} trials are trained already; "
                "they are not repeated"
            )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _say(self, text: str) -> None:
        self._console.print(at(self._elapsed_s(), text), markup=False, highlight=False, soft_wrap=True)

    def _run(self) -> None:
        start_s = last_line_s = time.monotonic()
        countdown = Countdown()
        display: AbstractContextManager[Live | None] = nullcontext()
        if self._console.is_terminal:
            display = Live(console=self._console, transient=True, auto_refresh=False)
        with display as live:
            while True:
                stopping = self._stop.wait(POLL_S)
                try:
                    snapshot = self._watcher.snapshot()
                except StorageError:  # the sweep itself meets it too, and says so
                    if stopping:
                        return
                    continue
                self._announce(snapshot)
                if stopping:
                    return
                now_s = time.monotonic()
                epochs = _num_epochs(snapshot) - self._epochs_before
                estimate_s = time_left_s(snapshot, slots=self._slots, patience=self._patience)
                line = status_line(
                    snapshot,
                    epochs_per_s=epochs / (now_s - start_s),
                    left_s=countdown.left_s(estimate_s, now_s),
                )
                if live is not None:
                    live.update(Text(line, style="dim"), refresh=True)
                elif now_s - last_line_s >= LINE_EVERY_S:
                    self._say(line)
                    last_line_s = now_s

    def _announce(self, snapshot: Snapshot) -> None:
        for key, state in snapshot.stages.items():
            if state.status in _ENDED and key not in self._announced:
                self._announced.add(key)
                self._say(f"{state.stage} ({state.label}): {state.outcome}")


def _num_epochs(snapshot: Snapshot) -> int:
    return sum(state.epoch for state in snapshot.stages.values())
