"""A store whose entries lie on an object store, computed and read by many machines.

The entry of KIND and KEY is the object KIND/KEY.json: its result, and a manifest of the files that belong to
it, which are objects below KIND/KEY/files. It is written last. While the entry is computed,
KIND/KEY/checkpoint.json names those below KIND/KEY/checkpoint likewise, as they were after the last epoch
whose upload has ended. What no manifest names is never read.

Each machine works and keeps what it has downloaded in its cache directory, which may be deleted whenever no
sweep runs there.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from easrec.data.catalog import default_cache_dir
from sweeps.coordinator import Coordination, Lease
from sweeps.manifest import (
    IncompleteError,
    Manifest,
    download_file,
    manifest_from_dict,
    manifest_to_dict,
    upload_files,
)
from sweeps.objects import ObjectStore
from sweeps.storage_error import StorageError
from sweeps.store import (
    Activity,
    Entry,
    EntryLostError,
    OnBusy,
    Result,
    Store,
    Workspace,
    now_ms,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Finished:
    """What the object of a finished entry holds."""

    result: Result
    files: Manifest

    def to_json(self) -> bytes:
        return _json({**asdict(self.result), "files": manifest_to_dict(self.files)})

    @classmethod
    def from_json(cls, data: bytes) -> "_Finished":
        try:
            values = json.loads(data)
            files = values.pop("files")
            result = Result(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IncompleteError(f"what it holds is no result ({error})") from error
        return cls(result, manifest_from_dict(files))


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """What an unfinished entry's checkpoint.json holds."""

    start_ms: int
    """When the first attempt began that left a checkpoint."""
    report: dict[str, Any]
    """Of the epoch after which it was made."""
    files: Manifest

    def to_json(self) -> bytes:
        values = {"start_ms": self.start_ms, "report": self.report, "files": manifest_to_dict(self.files)}
        return _json(values)

    @classmethod
    def from_json(cls, data: bytes) -> "_Checkpoint":
        try:
            values = json.loads(data)
            start_ms, report, files = (values[name] for name in ("start_ms", "report", "files"))
        except (ValueError, KeyError, TypeError) as error:
            raise IncompleteError(f"what it holds is no checkpoint ({error})") from error
        return cls(start_ms, report, manifest_from_dict(files))


def _read(objects: ObjectStore, name: str, parse: Callable[[bytes], T]) -> T | None:
    """What an object holds, or None where there is none; raises `IncompleteError` if it cannot be parsed."""
    for tries_left in (2, 1, 0):
        data = objects.read(name)
        if data is None:
            return None
        try:
            return parse(data)
        except IncompleteError:
            # One that is replaced while it is read may come out with the length of the one before.
            if tries_left == 0:
                raise
    raise AssertionError("the last round returns or raises")


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2, sort_keys=True, allow_nan=False).encode()


class RemoteStore(Store):
    """The entries of an object store; can be sent to other processes and machines.

    Two sweeps may use one object store at once, each with a coordinator of its own. They share what is
    finished; what both compute at the same moment is computed twice, and the first result is kept.
    """

    def __init__(self, objects: ObjectStore, coordinator: Coordination, *, owner: str = "") -> None:
        """Use an object store.

        Args:
            objects: where entries lie.
            coordinator: of all processes that compute entries of the same sweep.
            owner: see `owned_by`.
        """
        self.objects = objects
        self.coordinator = coordinator
        self.owner = owner
        self._known: dict[str, _Finished] = {}
        self._watched: _Watched | None = None
        self._refreshing = threading.Lock()
        self._checked: set[tuple[Path, str]] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        # What this process has seen stays here: only a driver refreshes, and results may be many.
        return _remote_store, (self.objects, self.coordinator, self.owner)

    @property
    def cache(self) -> Path:
        """Where this machine keeps what it has downloaded."""
        digest = hashlib.sha256(self.objects.url.encode()).hexdigest()[:16]
        return default_cache_dir() / "storage" / digest

    def entry(self, kind: str, key: str) -> Entry:
        """See `Store.entry`."""
        return _RemoteEntry(self, f"{kind}/{key}")

    def owned_by(self, owner: str) -> "RemoteStore":
        """See `Store.owned_by`."""
        return RemoteStore(self.objects, self.coordinator, owner=owner)

    def refresh(self) -> None:
        """Learn what was finished; from the first call on, `Entry.result` answers as of the latest.

        That costs no request: the coordinator is asked, and the object store once, for what was there before.
        """
        with self._refreshing:
            self._refresh()

    def _refresh(self) -> None:
        state = self.coordinator.state()
        before = self._watched
        if before is None or before.coordinator != state.coordinator:
            _, kinds = self.objects.list()
            finished = {
                f"{kind}/{name.removesuffix('.json')}"
                for kind in kinds
                for name in self.objects.list(kind)[0]
                if name.endswith(".json")
            }
        else:
            finished = before.finished
        self._watched = _Watched(state.coordinator, finished | state.finished, state.running)

    def begun(self) -> set[str]:
        """Places that are finished or being computed, as of the latest `refresh`; calls it if none was."""
        if self._watched is None:
            self.refresh()
        assert self._watched is not None
        return self._watched.finished | self._watched.running.keys()

    def finished(self, place: str, *, ask: bool = False) -> _Finished | None:
        """What a place holds, or None while it is not finished; `ask` the object store in any case."""
        if place in self._known:
            return self._known[place]
        if not ask and self._watched is not None and place not in self._watched.finished:
            return None
        try:
            found = _read(self.objects, f"{place}.json", _Finished.from_json)
        except IncompleteError as error:
            raise self._unusable(place, error) from error
        if found is None:
            return None
        self._known[place] = found
        self.coordinator.finished(place)
        return found

    def forget(self, place: str) -> None:
        """Take a result away."""
        self.objects.delete(f"{place}.json")
        self.coordinator.forget(place)
        self._known.pop(place, None)
        if self._watched is not None:
            self._watched.finished.discard(place)

    def running(self, place: str) -> Activity | None:
        """The attempt that computes a place."""
        running = self.coordinator.state().running if self._watched is None else self._watched.running
        return running.get(place)

    def fetch(self, place: str, files: Manifest) -> None:
        """Have files of a finished entry on this machine.

        Raises:
            StorageError: they are not on the object store as the entry's result says.
        """
        for name, stored in files.items():
            path = self.cache / place / name
            if (path, stored.sha256) in self._checked and path.is_file():
                continue
            try:
                download_file(self.objects, f"{place}/files", stored, path)
            except IncompleteError as error:
                raise self._unusable(place, error) from error
            self._checked.add((path, stored.sha256))

    def _unusable(self, place: str, error: IncompleteError) -> StorageError:
        return StorageError(
            f"{self.objects.url}/{place}.json cannot be used: {error}; delete it to have it computed again"
        )


def _remote_store(objects: ObjectStore, coordinator: Coordination, owner: str) -> RemoteStore:
    return RemoteStore(objects, coordinator, owner=owner)


@dataclass(frozen=True, slots=True)
class _Watched:
    """What a driver knows of its sweep without asking the object store."""

    coordinator: str
    finished: set[str]
    running: dict[str, Activity]


class _RemoteEntry(Entry):
    """See `sweeps.remote_store`."""

    def __init__(self, store: RemoteStore, place: str) -> None:
        self.place = place
        self._store = store
        self._objects = store.objects
        self._lease: Lease | None = None

    def result(self) -> Result | None:
        """See `Entry.result`."""
        finished = self._store.finished(self.place, ask=self._lease is not None)
        return None if finished is None else finished.result

    def activity(self) -> Activity | None:
        """See `Entry.activity`."""
        return self._store.running(self.place)

    def path(self, name: str) -> Path:
        """See `Entry.path`."""
        finished = self._store.finished(self.place)
        if finished is not None:
            files = {
                path: stored
                for path, stored in finished.files.items()
                if path == name or path.startswith(f"{name}/")
            }
            self._store.fetch(self.place, files)
        return self._store.cache / self.place / name

    @contextmanager
    def held(self, on_busy: OnBusy) -> Iterator[None]:
        """See `Entry.held`."""
        self._lease = Lease(self._store.coordinator, self.place, self._store.owner)
        with self._lease.held(on_busy):
            yield

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """See `Entry.workspace`."""
        with self._directory() as directory:
            attempt_ms = now_ms()
            checkpoint = self._restore(directory)
            if checkpoint is not None:
                self._tell(checkpoint.report)
            start_ms = attempt_ms if checkpoint is None else checkpoint.start_ms
            files = {} if checkpoint is None else checkpoint.files

            def record(report: dict[str, Any]) -> None:
                nonlocal files
                if self._lease is not None and self._lease.lost:
                    raise EntryLostError(f"another attempt has taken over {self.place}")
                folder = f"{self.place}/checkpoint"
                before = files
                files = upload_files(self._objects, folder, directory, known=before)
                latest = _Checkpoint(start_ms, report, files)
                self._objects.write(f"{folder}.json", latest.to_json())
                self._tell(report)
                named = {file.object for file in files.values()}
                for file in before.values():
                    if file.object not in named:
                        self._objects.delete(f"{folder}/{file.object}")

            yield Workspace(directory, start_ms, record)

    def finish(self, workspace: Workspace, result: Result) -> None:
        """See `Entry.finish`."""
        files: Manifest = {}
        if result.error is None:
            shutil.rmtree(workspace.checkpoints, ignore_errors=True)
            files = upload_files(self._objects, f"{self.place}/files", workspace.directory, known={})
        # Of two that were computed at once the first stays, so that figures that were read do not change.
        if self._store.finished(self.place, ask=True) is None:
            self._objects.write(f"{self.place}.json", _Finished(result, files).to_json())
            self._keep(workspace.directory, files)
            self._store.coordinator.finished(self.place)
        if result.error is None:
            self._objects.delete(f"{self.place}/checkpoint.json")
            self._objects.delete_folder(f"{self.place}/checkpoint")

    def forget(self) -> None:
        """See `Entry.forget`."""
        self._store.forget(self.place)

    def _tell(self, report: dict[str, Any]) -> None:
        if self._lease is not None:
            self._lease.report(report)

    def _restore(self, directory: Path) -> _Checkpoint | None:
        """Download the last whole checkpoint into an empty directory."""
        try:
            checkpoint = _read(self._objects, f"{self.place}/checkpoint.json", _Checkpoint.from_json)
            if checkpoint is None:
                return None
            for name, stored in checkpoint.files.items():
                download_file(self._objects, f"{self.place}/checkpoint", stored, directory / name)
        except IncompleteError as error:
            # An attempt that was taken for dead, and was not, has replaced it meanwhile.
            logger.warning("%s begins again: %s", self.place, error)
            shutil.rmtree(directory)
            directory.mkdir()
            return None
        return checkpoint

    def _keep(self, directory: Path, files: Manifest) -> None:
        """Move what has been uploaded to where it would be downloaded to."""
        for name in files:
            path = self._store.cache / self.place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(directory / name, path)

    @contextmanager
    def _directory(self) -> Iterator[Path]:
        """An empty directory for this attempt alone; those that dead attempts left are removed."""
        work = self._store.cache / "work"
        work.mkdir(parents=True, exist_ok=True)
        prefix = self.place.replace("/", "-")
        for old in work.glob(f"{prefix}-*.lock"):
            _remove_dead(old)
        directory = work / f"{prefix}-{uuid.uuid4().hex}"
        lock = directory.with_suffix(".lock")
        with FileLock(lock, fallback_to_soft=False):
            directory.mkdir()
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
        lock.unlink(missing_ok=True)


def _remove_dead(lock: Path) -> None:
    """Remove the directory of an attempt on this machine, unless its process still holds its lock."""
    try:
        with FileLock(lock, fallback_to_soft=False).acquire(blocking=False):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    except Timeout:
        return
    lock.unlink(missing_ok=True)
