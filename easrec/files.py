"""Files that are written whole or not at all."""

import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from easrec.errors import DiskFullError, InputError

_UNFINISHED = ".unfinished-"
"""How the names of files begin that are being written."""

_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "files may not be so large here",
}


def write_atomically(path: Path | str, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk and move it into place.

    A reader sees the old file or the new one, never a part. The temporary file is removed when `write`
    fails, and the failure goes on to the caller; what a killed process leaves, `remove_unfinished` removes.

    Raises:
        DiskFullError: there is no room for it.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix is kept because some writers (parquet, png) look at it.
        handle, name = tempfile.mkstemp(
            prefix=f"{_UNFINISHED}{path.stem}-", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp makes files for their owner alone
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except Exception as error:  # libraries that write files have errors of their own for a full disk
        reason = _no_room(error)
        if reason is None:
            raise
        raise DiskFullError(f"{path} cannot be written: {reason}; make room there") from error


def _no_room(error: BaseException) -> str | None:
    """Why there was no room, if that is what an error, or one that it arose from, says."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _NO_ROOM:
            return _NO_ROOM[seen.errno]
        for number, reason in _NO_ROOM.items():
            # As C says it, and as Rust does.
            if os.strerror(number) in str(seen) or f"(os error {number})" in str(seen):
                return reason
        seen = seen.__cause__ or seen.__context__
    return None


def is_unfinished(path: Path) -> bool:
    """Whether a file is being written by `write_atomically`, or was when its process was killed."""
    return path.name.startswith(_UNFINISHED)


def remove_unfinished(directory: Path) -> None:
    """Remove what processes that were killed had begun to write in a directory, where nobody writes now."""
    for path in directory.glob(f"{_UNFINISHED}*"):
        path.unlink(missing_ok=True)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as JSON, atomically; NaN and infinity are refused, since JSON has neither."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False)
    write_atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def what_is_at(path: Path | str) -> Literal["file", "directory", "nothing"]:
    """What lies at a path that a user named; anything that is no directory counts as a file.

    Raises:
        InputError: the system does not tell: the name is too long, or a directory above may not be read.
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be looked at ({reason}); check the path") from error
    return "directory" if stat.S_ISDIR(mode) else "file"


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is none.
        InputError: it holds something else, because it was cut short or changed.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError too
        raise InputError(f"{path} is no JSON ({error}): it has been cut short or changed") from error
