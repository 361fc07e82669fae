"""Results kept by what they depend on, each computed once.

A store holds entries, each of a kind and a key. Whoever computes an entry holds it alone, in a workspace
where checkpoints and other files may be left. An entry is finished when its result is there, which is written
last and whole. What a process that died has held becomes free, and the next one to ask carries on from the
checkpoints that it left.

`Store` is a directory that all processes see; `sweeps.remote_store` keeps entries elsewhere.
"""

import hashlib
import json
import math
import os
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

import easrec
from easrec.errors import InputError
from easrec.files import read_json, remove_unfinished, write_json
from sweeps.storage_error import StorageError

OnBusy = Literal["wait", "defer"]

_LONGEST_ERROR = 1000

RESULT = "result.json"
ATTEMPTS = "attempts.json"
PROGRESS = "progress.json"
"""Names of what a store that is a directory keeps beside an entry's files: the result, when attempts began,
and the latest epoch's report."""

CHECKPOINTS = "checkpoints"
"""Directory of a workspace that is gone once the entry has its value."""


class EntryBusyError(Exception):
    """Another process is computing the entry at this moment."""


class EntryLostError(Exception):
    """This process no longer holds the entry that it computes: it was taken for dead."""


class StoredFailureError(Exception):
    """The entry cannot be computed: its computation failed in a way that would repeat itself."""


def content_key(content: Any) -> str:
    """16 hexadecimal digits that stand for a JSON value: the same content, the same key.

    >>> content_key({"a": 1, "b": (2, 3)}) == content_key({"b": [2, 3], "a": 1})
    True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


NEVER_TRAINS = (
    "serving/",
    "evaluation/measure.py",
    "evaluation/memory.py",
    "evaluation/profile.py",
)
"""What of easrec no stage that trains imports: files and directories."""
_MEASURING_PART = re.compile(r"\.[0-9a-f]{8}(?=-torch)")


@cache
def code_version() -> str:
    """What the numbers of a result depend on besides its settings: easrec's sources, and torch.

    The sources are in it twice: those that train, and after a dot those that only measure and serve.

    >>> code_version() == code_version()
    True
    """
    root = Path(easrec.__file__).parent
    training, measuring = hashlib.sha256(), hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        digest = measuring if name.startswith(NEVER_TRAINS) else training
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    sources = f"{training.hexdigest()[:16]}.{measuring.hexdigest()[:8]}"
    return f"{easrec.__version__}-{sources}-torch{version('torch')}"


def training_version(code_version: str) -> str:
    """Of a `code_version` what trained networks depend on: they stay when latency is measured in a new way.

    >>> training_version("0.1.0-0123456789abcdef.01234567-torch2.13.0")
    '0.1.0-0123456789abcdef-torch2.13.0'
    """
    return _MEASURING_PART.sub("", code_version)


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished entry holds."""

    value: dict[str, Any]
    """What the computation returned; empty when it failed."""
    error: str | None
    """One sentence that says why it failed, or None."""
    start_ms: int
    """When the computation that finished it was started first, in ms since 1970."""
    end_ms: int
    """When it finished, in ms since 1970."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What is known of the latest attempt to compute an entry."""

    start_ms: int
    """When it began, in ms since 1970."""
    report: dict[str, Any] | None
    """The report of the last epoch whose checkpoint is kept, of this attempt or of one before; None before
    any."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where an entry is computed: a directory on this machine, with what earlier attempts left there."""

    directory: Path
    """For files; those that lie there at the end are kept with the result."""
    start_ms: int
    """When the first attempt began, in ms since 1970."""
    on_record: Callable[[dict[str, Any]], None]
    """What `record` does."""

    @property
    def checkpoints(self) -> Path:
        """Where a computation keeps what it needs to resume; gone once the entry has its value."""
        return self.directory / CHECKPOINTS

    def record(self, report: dict[str, Any]) -> None:
        """Keep the report of an epoch whose checkpoint lies in the directory, and the checkpoint with it."""
        self.on_record(report)


class Entry(ABC):
    """One place of a store."""

    place: str
    """KIND/KEY."""

    @abstractmethod
    def result(self) -> Result | None:
        """The finished result, or None while there is none."""

    @abstractmethod
    def activity(self) -> Activity | None:
        """What is known of the latest attempt to compute it; None before any."""

    @abstractmethod
    def path(self, name: str) -> Path:
        """Where a file or directory that the computation left lies on this machine, fetched if need be.

        The path of one that was not left does not exist.
        """

    @abstractmethod
    def held(self, on_busy: OnBusy) -> AbstractContextManager[None]:
        """Hold the entry for the length of a `with`; `EntryBusyError` when another has it, with `defer`."""

    @abstractmethod
    def workspace(self) -> AbstractContextManager[Workspace]:
        """Where to compute the entry, which must be held."""

    @abstractmethod
    def finish(self, workspace: Workspace, result: Result) -> None:
        """Write the result, and what else the computation left in its workspace; all or nothing."""

    @abstractmethod
    def forget(self) -> None:
        """Take the result away, so that the entry is computed again."""

    def value(self) -> dict[str, Any]:
        """The value of a finished entry; raises `StoredFailureError` for one that failed."""
        result = self.result()
        if result is None:
            raise FileNotFoundError(f"{self.place} has no result yet")
        if result.error is not None:
            raise StoredFailureError(result.error)
        return result.value


@dataclass(frozen=True, slots=True)
class DirectoryEntry(Entry):
    """An entry that is a directory; the operating system releases the lock of a process that dies."""

    place: str
    directory: Path
    """Where the files of the entry lie, while it is computed as well as afterwards."""

    def result(self) -> Result | None:
        """See `Entry.result`."""
        values = self._read(RESULT)
        return None if values is None else Result(**values)

    def attempts(self) -> tuple[int, int] | None:
        """When the first and the latest attempt to compute it began, in ms since 1970; None before any."""
        values = self._read(ATTEMPTS)
        return None if values is None else (values[0], values[1])

    def activity(self) -> Activity | None:
        """See `Entry.activity`."""
        attempts = self.attempts()
        if attempts is None:
            return None
        return Activity(attempts[1], self._read(PROGRESS))

    def _read(self, name: str) -> Any:
        """What a JSON file of the entry holds, or None where there is none.

        Raises:
            StorageError: it has been cut short or changed.
        """
        try:
            return read_json(self.directory / name)
        except FileNotFoundError:
            return None
        except InputError as error:
            raise StorageError(f"{error}; delete it to have it made again") from error

    def path(self, name: str) -> Path:
        """See `Entry.path`."""
        return self.directory / name

    @contextmanager
    def held(self, on_busy: OnBusy) -> Iterator[None]:
        """See `Entry.held`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.directory / "lock", fallback_to_soft=False)
        try:
            lock.acquire(blocking=on_busy == "wait")
        except Timeout:
            raise EntryBusyError(f"{self.directory} is being computed") from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """See `Entry.workspace`."""
        # Whoever holds the entry is the only one to write there: what is half-written is of the dead.
        for folder in (self.directory, *(path for path in self.directory.iterdir() if path.is_dir())):
            remove_unfinished(folder)
        attempt_ms = now_ms()
        start_ms = (self.attempts() or (attempt_ms, attempt_ms))[0]
        write_json(self.directory / ATTEMPTS, [start_ms, attempt_ms])
        yield Workspace(
            self.directory, start_ms, lambda report: write_json(self.directory / PROGRESS, report)
        )

    def finish(self, workspace: Workspace, result: Result) -> None:
        """See `Entry.finish`."""
        write_json(self.directory / RESULT, asdict(result))
        if result.error is None:
            shutil.rmtree(workspace.checkpoints, ignore_errors=True)

    def forget(self) -> None:
        """See `Entry.forget`."""
        (self.directory / RESULT).unlink()


class Store:
    """The entries below one directory; any number of processes may use it at once."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def entry(self, kind: str, key: str) -> Entry:
        """The entry of a kind and key, finished or not."""
        return DirectoryEntry(f"{kind}/{key}", self.root / kind / key)

    def refresh(self) -> None:
        """Learn what other processes have finished; a directory shows it by itself."""

    def begun(self) -> set[str]:
        """Places that have a result or were ever begun, asked for all at once; others have nothing.

        Asking each of many entries costs a shared file system several requests each.
        """
        places: set[str] = set()
        with suppress(FileNotFoundError), os.scandir(self.root) as kinds:
            for kind in kinds:
                with suppress(FileNotFoundError, NotADirectoryError):
                    places.update(f"{kind.name}/{key}" for key in os.listdir(kind.path))
        return places

    def owned_by(self, owner: str) -> "Store":
        """This store for a computation that is known by a name.

        Where the store cannot tell by itself that a process has died, the next attempt of the same name takes
        over what it held.
        """
        return self

    def forget_failure(self, kind: str, key: str) -> None:
        """Let a failed entry be computed again; any other is left as it is."""
        entry = self.entry(kind, key)
        result = entry.result()
        if result is not None and result.error is not None:
            entry.forget()

    def get_or_compute(
        self,
        kind: str,
        key: str,
        compute: Callable[[Workspace], Mapping[str, Any]],
        *,
        on_busy: OnBusy = "wait",
        failures: tuple[type[Exception], ...] = (),
    ) -> dict[str, Any]:
        """The value of an entry, computed here unless it is finished already.

        Args:
            kind: what is stored, such as `retrain`.
            key: what the value depends on, see `content_key`.
            compute: computes the value, a dictionary of JSON values; may write files into its workspace.
            on_busy: when another process is computing it, `wait` for the value or `defer`.
            failures: exceptions that would come again; they are stored in place of a value. Any other
                exception passes, and the entry stays unfinished.

        Raises:
            EntryBusyError: with `on_busy="defer"`, when another process is computing the entry.
            StoredFailureError: when the computation failed, now or earlier, with one of `failures`.
        """
        entry = self.entry(kind, key)
        while entry.result() is None:
            with suppress(EntryLostError), entry.held(on_busy):
                if entry.result() is None:
                    _compute(entry, compute, failures)
        return entry.value()


def _compute(
    entry: Entry,
    compute: Callable[[Workspace], Mapping[str, Any]],
    failures: tuple[type[Exception], ...],
) -> None:
    with entry.workspace() as workspace:
        value: dict[str, Any] = {}
        error = None
        try:
            value = dict(compute(workspace))
        except failures as failure:
            error = " ".join(str(failure).split())[:_LONGEST_ERROR] or type(failure).__name__
        entry.finish(workspace, Result(value, error, workspace.start_ms, now_ms()))


def now_ms() -> int:
    """The time in whole ms since 1970."""
    return math.floor(time.time() * 1000)
