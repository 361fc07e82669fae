"""Says now and then what a comparison or an oracle is computing, whose trials may take hours to end."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from sweeps.storage_error import StorageError
from sweeps.store import Store

M = TypeVar("M")

EVERY_S = 60.0
_STAGES = {"warm": "warm-up", "search": "search", "retrain": "retraining", "baseline": "training"}


class Heartbeat(Generic[M]):
    """A line a minute about the stages that run, from a thread of its own, between `with` and its end.

    Args:
        members: the trials.
        store: where their results go.
        label: how people call a trial.
        places: kinds and keys of the stages of a trial that are known by now.
        say: prints a line.
        since_ms: attempts that began before are of an earlier, dead run.
        every_s: seconds from line to line.
    """

    def __init__(
        self,
        members: Sequence[M],
        store: Store,
        *,
        label: Callable[[M], str],
        places: Callable[[M], Iterable[tuple[str, str]]],
        say: Callable[[str], None],
        since_ms: int,
        every_s: float = EVERY_S,
    ) -> None:
        self._members = members
        self._store = store
        self._label = label
        self._places = places
        self._say = say
        self._since_ms = since_ms
        self._every_s = every_s
        self._ended: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat[M]":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                stages = self.running()
            except StorageError:  # those who compute meet it too, and say so
                continue
            if stages:
                self._say("running: " + "; ".join(stages))

    def running(self) -> list[str]:
        """The stages that are computed now, each with its trial and its epochs; shared ones once."""
        self._store.refresh()
        begun = self._store.begun()
        seen: set[str] = set()
        found = []
        for member in self._members:
            for kind, key in self._places(member):
                entry = self._store.entry(kind, key)
                if entry.place not in begun or entry.place in self._ended or entry.place in seen:
                    continue
                seen.add(entry.place)
                if entry.result() is not None:
                    self._ended.add(entry.place)
                    continue
                activity = entry.activity()
                if activity is None or activity.start_ms < self._since_ms:
                    continue
                report = activity.report
                epochs = "" if report is None else f" {report['epoch']}/{report['num_epochs']}"
                found.append(f"{self._label(member)}: {_STAGES.get(kind, kind)}{epochs}")
        return found
