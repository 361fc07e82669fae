"""Results kept on disk by what they depend on, each computed once.

A store is a directory. The entry of a kind and a key lies in `<root>/<kind>/<key>`; whoever computes it
holds the entry's lock and may leave files there (checkpoints, weights). It is finished when its
`result.json` exists, which is written last and atomically. The operating system releases the lock of a
process that dies, so the next one to ask carries on from the checkpoints that it left.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

import easrec
from easrec.files import read_json, write_json

OnBusy = Literal["wait", "defer"]

_LONGEST_ERROR = 1000

RESULT = "result.json"
ATTEMPTS = "attempts.json"


class EntryBusyError(Exception):
    """Another process is computing the entry at this moment."""


class StoredFailureError(Exception):
    """The entry cannot be computed: its computation failed in a way that would repeat itself."""


def content_key(content: Any) -> str:
    """16 hexadecimal digits that stand for a JSON value: the same content, the same key.

    >>> content_key({"a": 1, "b": (2, 3)}) == content_key({"b": [2, 3], "a": 1})
    True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def code_version() -> str:
    """What the numbers of a result depend on besides its settings: easrec's sources, and torch.

    >>> code_version() == code_version()
    True
    """
    root = Path(easrec.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{easrec.__version__}-{digest.hexdigest()[:16]}-torch{version('torch')}"


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
class Entry:
    """One place of a store."""

    directory: Path
    """Where the files of the entry lie."""

    @property
    def checkpoints(self) -> Path:
        """Where a computation keeps what it needs to resume; gone once the entry has its value."""
        return self.directory / "checkpoints"

    def result(self) -> Result | None:
        """The finished result, or None while there is none."""
        try:
            return Result(**read_json(self.directory / RESULT))
        except FileNotFoundError:
            return None

    def attempts(self) -> tuple[int, int] | None:
        """When the first and the latest attempt to compute it began, in ms since 1970; None before any."""
        try:
            first_ms, latest_ms = read_json(self.directory / ATTEMPTS)
        except FileNotFoundError:
            return None
        return first_ms, latest_ms

    def value(self) -> dict[str, Any]:
        """The value of a finished entry; raises `StoredFailureError` for one that failed."""
        result = self.result()
        if result is None:
            raise FileNotFoundError(f"{self.directory} has no result yet")
        if result.error is not None:
            raise StoredFailureError(result.error)
        return result.value


class Store:
    """The entries below one directory; any number of processes may use it at once."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def entry(self, kind: str, key: str) -> Entry:
        """The entry of a kind and key, finished or not."""
        return Entry(self.root / kind / key)

    def forget_failure(self, kind: str, key: str) -> None:
        """Let a failed entry be computed again; any other is left as it is."""
        entry = self.entry(kind, key)
        result = entry.result()
        if result is not None and result.error is not None:
            (entry.directory / RESULT).unlink()

    def get_or_compute(
        self,
        kind: str,
        key: str,
        compute: Callable[[Entry], dict[str, Any]],
        *,
        on_busy: OnBusy = "wait",
        failures: tuple[type[Exception], ...] = (),
    ) -> dict[str, Any]:
        """The value of an entry, computed here unless it is finished already.

        Args:
            kind: what is stored, such as `retrain`.
            key: what the value depends on, see `content_key`.
            compute: computes the value, a dictionary of JSON values; may write files into the entry.
            on_busy: when another process is computing it, `wait` for the value or `defer`.
            failures: exceptions that would come again; they are stored in place of a value. Any other
                exception passes, and the entry stays unfinished.

        Raises:
            EntryBusyError: with `on_busy="defer"`, when another process is computing the entry.
            StoredFailureError: when the computation failed, now or earlier, with one of `failures`.
        """
        entry = self.entry(kind, key)
        if entry.result() is None:
            entry.directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock(entry.directory / "lock", fallback_to_soft=False)
            try:
                with lock.acquire(blocking=on_busy == "wait"):
                    if entry.result() is None:
                        self._compute(entry, compute, failures)
            except Timeout:
                raise EntryBusyError(f"{entry.directory} is being computed") from None
        return entry.value()

    @staticmethod
    def _compute(
        entry: Entry,
        compute: Callable[[Entry], dict[str, Any]],
        failures: tuple[type[Exception], ...],
    ) -> None:
        attempt_ms = now_ms()
        start_ms = (entry.attempts() or (attempt_ms, attempt_ms))[0]
        write_json(entry.directory / ATTEMPTS, [start_ms, attempt_ms])
        value: dict[str, Any] = {}
        error = None
        try:
            value = compute(entry)
        except failures as failure:
            error = " ".join(str(failure).split())[:_LONGEST_ERROR] or type(failure).__name__
        write_json(
            entry.directory / RESULT,
            {"value": value, "error": error, "start_ms": start_ms, "end_ms": now_ms()},
        )
        if error is None:
            shutil.rmtree(entry.checkpoints, ignore_errors=True)


def now_ms() -> int:
    """The time in whole ms since 1970."""
    return math.floor(time.time() * 1000)
