"""The directory of a sweep: whose it is, and that nobody else writes there."""

import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from easrec.errors import InputError
from easrec.files import is_unfinished, read_json, remove_unfinished, what_is_at, write_json
from sweeps.addresses import masked
from sweeps.config import SweepConfig, option
from sweeps.store import now_ms

SWEEP = "sweep.json"
"""What a sweep's directory and its MLflow run call the file that says what the sweep is."""

STORE = "store"
"""Directory within it for the results of stages, unless they go to a storage of their own."""

TRACKING = "tracking.json"
"""File that says where MLflow records the sweep, if that is not in its directory."""

_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class SweepIdentity:
    """What stays the same when a sweep is resumed."""

    sweep_id: str
    """Names the sweep in MLflow."""
    start_ms: int
    """When it was started first, in ms since 1970."""


def default_output(config: SweepConfig, kind: str) -> Path:
    """A new directory below `runs`, named after the kind of sweep, the data set, the preset and the time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = re.sub(r"[^\w.-]+", "-", config.data_name)
    return Path("runs", f"{kind}-{name}-{config.preset}-{stamp}")


@contextmanager
def locked_output(path: Path, *, resume: bool) -> Iterator[Path]:
    """The absolute path of an output directory that belongs to this process for the length of a `with`.

    If no sweep has been written down there by its end, the directory is left as it was found.

    Raises:
        InputError: another sweep runs there, the directory is in use and `resume` is not set, it is set and
            there is no sweep, or the directory cannot be used.
    """
    try:
        path = path.resolve()
        missing = _checked(path, resume=resume)
        path.mkdir(parents=True, exist_ok=True)
        (path / _LOCK).touch()
    except OSError as error:
        raise InputError(
            f"the output {path} cannot be used: {error.strerror or error}; choose another --output"
        ) from error
    try:
        with FileLock(path / _LOCK, fallback_to_soft=False).acquire(blocking=False):
            remove_unfinished(path)
            try:
                yield path
            finally:
                if not (path / SWEEP).exists():
                    _remove_empty(path, missing)
    except Timeout:
        raise InputError(
            f"another sweep is running in {path}; wait for its end, or choose another --output"
        ) from None


def _checked(path: Path, *, resume: bool) -> list[Path]:
    """The directories that will have to be made for an output, the deepest first; refuses one in use."""
    if set("?#%") & set(str(path)):
        raise InputError(
            f"the output directory {path} has one of the characters ? # % in its name, which a database "
            "address cannot hold; choose another --output"
        )
    there = what_is_at(path)
    if there == "file":
        raise InputError(f"the output {path} is a file; choose a directory")
    held = []
    if there == "directory":
        held = [entry.name for entry in path.iterdir() if entry.name != _LOCK and not is_unfinished(entry)]
    if resume and SWEEP not in held:
        what = "does not exist" if there == "nothing" else "holds files but no sweep" if held else "is empty"
        raise InputError(
            f"--resume: {path} {what}; name the directory of a sweep by --output, or begin one without "
            "--resume"
        )
    if held and not resume:
        if SWEEP in held:
            raise InputError(
                f"{path} holds a sweep already; go on with it by --resume, or choose another --output"
            )
        raise InputError(f"the output directory {path} is not empty; choose another --output")
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _remove_empty(path: Path, made: list[Path]) -> None:
    """Take away the lock, and the directories that were made for it, unless somebody has put something in."""
    (path / _LOCK).unlink(missing_ok=True)
    for folder in made:
        if not folder.exists():
            # Somebody has taken it away meanwhile: what the sweep ended with is what shall be heard.
            continue
        if any(folder.iterdir()):
            return
        folder.rmdir()


def identify(
    path: Path, config: SweepConfig, facts: Mapping[str, Any], *, licence: str = ""
) -> SweepIdentity:
    """Write what the sweep in `path` is; where that was done before, check that it is the same one.

    Args:
        path: the sweep's directory.
        config: what the user asked for.
        facts: what results depend on besides: the data's checksum, the program's version, the device.
        licence: terms of use of the data, kept for whoever ships a network.

    Raises:
        InputError: the sweep was started with other settings; the message names the first few.
    """
    settings = {option(name): value for name, value in config.result_settings().items()}
    settings |= facts
    file = path / SWEEP
    if not file.exists():
        identity = SweepIdentity(uuid.uuid4().hex[:16], now_ms())
        write_json(
            file,
            {
                "sweep_id": identity.sweep_id,
                "start_ms": identity.start_ms,
                "settings": settings,
                "licence": licence,
            },
        )
        return identity
    try:
        stored = read_json(file)
    except InputError as error:
        raise InputError(f"{error}; without it the sweep cannot go on: choose another --output") from error
    before = stored["settings"]
    changed = [
        f"{name} was {before.get(name)!r} and is now {settings.get(name)!r}"
        for name in sorted(before.keys() | settings.keys())
        if before.get(name) != settings.get(name)
    ]
    if changed:
        raise InputError(
            f"the sweep in {path} was started otherwise: {'; '.join(changed)}. "
            "Resume it with what it was started with, or choose another --output"
        )
    return SweepIdentity(stored["sweep_id"], stored["start_ms"])


def note_tracking_uri(path: Path, tracking_uri: str | None) -> None:
    """Write down where the sweep in `path` is recorded from now on, without the password; None: in `path`."""
    if tracking_uri is None:
        (path / TRACKING).unlink(missing_ok=True)
    else:
        write_json(path / TRACKING, {"tracking_uri": masked(tracking_uri)})


def noted_tracking_uri(path: Path) -> str | None:
    """Where the sweep in `path` is recorded, as `note_tracking_uri` wrote it."""
    file = path / TRACKING
    return str(read_json(file)["tracking_uri"]) if file.is_file() else None
