"""The content-addressed store: computed once, resumed after a death, never read half-written."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from sweeps.store import DirectoryEntry, EntryBusyError, Store, StoredFailureError, Workspace, content_key

SPAWN = multiprocessing.get_context("spawn")


def entry_of(store: Store) -> DirectoryEntry:
    entry = store.entry("kind", "key")
    assert isinstance(entry, DirectoryEntry)
    return entry


def test_a_key_depends_on_content_and_not_on_order_or_sequence_type() -> None:
    assert content_key({"a": [1, 2], "b": 0.1}) == content_key({"b": 0.1, "a": (1, 2)})
    assert content_key({"a": 1}) != content_key({"a": 1.5})
    assert len(content_key({})) == 16


def test_a_value_is_computed_once_and_read_afterwards(tmp_path: Path) -> None:
    calls = []

    def compute(workspace: Workspace) -> dict[str, Any]:
        calls.append(workspace.directory)
        return {"value": 7}

    for _ in range(2):
        assert Store(tmp_path).get_or_compute("kind", "key", compute) == {"value": 7}
    assert calls == [tmp_path / "kind" / "key"]


def test_an_entry_cut_short_is_not_finished_and_keeps_its_files(tmp_path: Path) -> None:
    def dies(workspace: Workspace) -> dict[str, Any]:
        workspace.checkpoints.mkdir()
        (workspace.checkpoints / "epoch").write_text("3")
        raise OSError("the disk went away")

    store = Store(tmp_path)
    with pytest.raises(OSError, match="went away"):
        store.get_or_compute("kind", "key", dies, failures=(ValueError,))
    first = entry_of(store).attempts()
    assert first is not None
    assert store.entry("kind", "key").result() is None

    value = store.get_or_compute(
        "kind", "key", lambda workspace: {"from": (workspace.checkpoints / "epoch").read_text()}
    )

    result = store.entry("kind", "key").result()
    assert value == {"from": "3"}
    assert result is not None
    assert result.start_ms == first[0]  # the first attempt's
    assert not entry_of(store).path("checkpoints").exists()  # nobody needs them any more


def test_a_failure_that_would_repeat_itself_is_stored_and_not_tried_again(tmp_path: Path) -> None:
    calls = []

    def fails(workspace: Workspace) -> dict[str, Any]:
        calls.append(workspace)
        raise ValueError("the loss is nan\nin step 3")

    for _ in range(2):
        with pytest.raises(StoredFailureError, match=r"^the loss is nan in step 3$"):
            Store(tmp_path).get_or_compute("kind", "key", fails, failures=(ValueError,))
    assert len(calls) == 1


def test_a_value_that_is_no_json_leaves_the_entry_unfinished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        store.get_or_compute("kind", "key", lambda entry: {"loss": float("nan")})
    assert store.entry("kind", "key").result() is None
    assert not list(entry_of(store).directory.glob("*result*"))


def slow_compute(root: Path, counter: Path, seconds: float) -> None:
    """Runs in a process of its own."""

    def compute(workspace: Workspace) -> dict[str, Any]:
        with counter.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        return {"pid": os.getpid()}

    Store(root).get_or_compute("kind", "key", compute)


def start_holder(root: Path, counter: Path, seconds: float) -> "multiprocessing.process.BaseProcess":
    process = SPAWN.Process(target=slow_compute, args=(root, counter, seconds))
    process.start()
    deadline = time.monotonic() + 30
    while not (counter.exists() and str(process.pid) in counter.read_text()):
        assert time.monotonic() < deadline, "the process did not begin to compute"
        time.sleep(0.01)
    return process


def test_two_processes_at_once_compute_once_and_get_the_same_value(tmp_path: Path) -> None:
    counter = tmp_path / "calls"
    processes = [SPAWN.Process(target=slow_compute, args=(tmp_path, counter, 0.3)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(counter.read_text().split()) == 1


def test_a_busy_entry_is_deferred_on_request(tmp_path: Path) -> None:
    holder = start_holder(tmp_path, tmp_path / "calls", 30)
    try:
        with pytest.raises(EntryBusyError):
            Store(tmp_path).get_or_compute("kind", "key", lambda entry: {}, on_busy="defer")
    finally:
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()


def test_a_killed_holder_leaves_the_entry_to_the_next(tmp_path: Path) -> None:
    holder = start_holder(tmp_path, tmp_path / "calls", 30)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    value = Store(tmp_path).get_or_compute("kind", "key", lambda entry: {"n": 1}, on_busy="defer")
    assert value == {"n": 1}
    stored = json.loads((tmp_path / "kind" / "key" / "result.json").read_text())
    assert stored["value"] == {"n": 1}


def test_what_a_dead_attempt_had_begun_to_write_is_removed_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "kind" / "key" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / ".unfinished-checkpoint-abcdefgh.pt").write_bytes(bytes(1000))
    (folder.parent / ".unfinished-progress-abcdefgh.json").write_text("{")
    seen: list[str] = []

    def compute(workspace: Workspace) -> dict[str, Any]:
        seen.extend(path.name for path in workspace.directory.rglob("*"))
        return {}

    Store(tmp_path).get_or_compute("kind", "key", compute)
    assert sorted(seen) == ["attempts.json", "checkpoints", "lock"]
