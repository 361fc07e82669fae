"""How a program ends early: by Ctrl-C or a batch system's SIGTERM, or for want of a disk or a storage."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from easrec.errors import DiskFullError
from sweeps.storage_error import StorageError

STOPPING = (KeyboardInterrupt, StorageError, DiskFullError)
"""What ends a program so that the same command goes on with it."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, which batch systems send before they kill, end the program as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say_stopped(end: BaseException, command: str, console: Console) -> int:
    """Print why a program ended with one of `STOPPING` and what goes on with it; returns the exit status."""
    because, status = (": " + str(end), 1) if not isinstance(end, KeyboardInterrupt) else ("", INTERRUPTED)
    console.print(
        f"\nstopped{because}; what is finished is kept. Go on with:\n  {command}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return status
