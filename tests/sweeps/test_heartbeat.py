"""What a comparison or an oracle says while its trials run."""

import threading
from pathlib import Path

import pytest

from easrec.files import write_json
from easrec.training import EpochReport
from sweeps.heartbeat import Heartbeat
from sweeps.storage_error import StorageError
from sweeps.store import PROGRESS, Store, Workspace, now_ms

PLACES = {"a": [("warm", "shared"), ("search", "of-a")], "b": [("warm", "shared"), ("baseline", "of-b")]}


def heartbeat(store: Store, said: list[str] | None = None, *, since_ms: int = 0) -> Heartbeat[str]:
    return Heartbeat(
        list(PLACES),
        store,
        label=str.upper,
        places=PLACES.__getitem__,
        say=[].append if said is None else said.append,
        since_ms=since_ms,
        every_s=0.01,
    )


def progress(workspace: Workspace, epoch: int) -> None:
    report = EpochReport("search", epoch, 5, {"loss": 1.0}, 2.0, now_ms(), 1.0)
    write_json(workspace.directory / PROGRESS, report.to_dict())


def test_stages_that_run_are_named_once_with_their_epochs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    watch = heartbeat(store)
    assert watch.running() == []
    seen = []

    def warm(workspace: Workspace) -> dict[str, object]:
        seen.append(watch.running())
        progress(workspace, 2)
        seen.append(watch.running())
        return {}

    store.get_or_compute("warm", "shared", warm)
    assert seen == [["A: warm-up"], ["A: warm-up 2/5"]]  # b shares it
    assert watch.running() == []

    def train(workspace: Workspace) -> dict[str, object]:
        progress(workspace, 4)
        store.get_or_compute("search", "of-a", lambda inner: seen.append(watch.running()) or {})
        return {}

    store.get_or_compute("baseline", "of-b", train)
    assert seen[2] == ["A: search", "B: training 4/5"]


def test_what_an_earlier_run_left_does_not_run(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def dies(workspace: Workspace) -> dict[str, object]:
        progress(workspace, 3)
        raise OSError

    with pytest.raises(OSError):
        store.get_or_compute("search", "of-a", dies)
    assert heartbeat(store).running() == ["A: search 3/5"]
    assert heartbeat(store, since_ms=now_ms() + 1).running() == []


def test_lines_come_while_something_runs_also_after_a_storage_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, said = Store(tmp_path), []
    failures, tried = [StorageError("away")], threading.Event()
    begun = store.begun

    def sometimes() -> set[str]:
        if failures:
            tried.set()
            raise failures.pop()
        return begun()

    monkeypatch.setattr(store, "begun", sometimes)

    def compute(workspace: Workspace) -> dict[str, object]:
        progress(workspace, 1)
        with heartbeat(store, said):
            assert tried.wait(30)
            while not said:
                threading.Event().wait(0.01)
        return {}

    store.get_or_compute("search", "of-a", compute)
    assert set(said) == {"running: A: search 1/5"}
    count = len(said)
    threading.Event().wait(0.1)
    assert len(said) == count, "its thread has ended"
