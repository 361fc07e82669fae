"""The driver's side of `worker.py`: processes of equal conditions, and measurements that take turns."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

KEPT_BYTES = 1 << 30
"""Freed buffers up to this size are kept by glibc's allocator in all processes that are timed."""
ALLOCATOR = f"glibc's allocator keeps freed buffers of up to {KEPT_BYTES >> 20:,} MiB, on all sides"


class WorkerError(RuntimeError):
    """A worker ended before it answered; its own message is on standard error."""


class Worker:
    """A process that runs `worker.work`.

    Args:
        command: the Python and the script, with its arguments.
        threads: the most threads that it will be asked to use.
    """

    def __init__(self, command: Sequence[str | Path], threads: int) -> None:
        self._name = Path(command[1]).name
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": "1",
            # By itself glibc gives large buffers back and takes them anew, page by page, for each operation.
            "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
            "MALLOC_MMAP_THRESHOLD_": str(KEPT_BYTES),
        }
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            text=True,
            env=environment,
        )
        self.description: dict[str, Any] = self.ask(do="describe")

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its reply.

        Raises:
            WorkerError: the process has ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(json.dumps(command), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            raise WorkerError(f"{self._name} ended with status {status}; its message is above")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True)
class Entrant:
    """Something to be timed: a worker's contestant on some requests."""

    worker: Worker
    contestant: str
    requests: str
    scale: float = 1.0
    """What a time is multiplied by, where a part stands for a whole."""


@dataclass(frozen=True)
class Times:
    """Seconds of one entrant, by round."""

    rounds: list[list[float]] = field(default_factory=list)

    @property
    def all(self) -> list[float]:
        """Those of all rounds."""
        return [value for turn in self.rounds for value in turn]

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return statistics.median(self.all)

    def quantile(self, share: float) -> float | None:
        """A quantile in seconds, or None where there are too few values for one beyond it."""
        if len(self.all) < round(1 / (1 - share)):
            return None
        return float(np.quantile(self.all, share))

    def ratio(self, other: "Times") -> float:
        """How many times longer than `other` it took: the median over rounds of the ratio of their medians.

        Both of a round met the same moment of the machine, so a busy one cancels out.
        """
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)


def take_turns(
    entrants: dict[str, Entrant], *, rounds: int, count: int, untimed: int = 2, untimed_rounds: int = 1
) -> dict[str, Times]:
    """Time entrants in turn, round after round.

    Args:
        entrants: by name.
        rounds: how often each has its turn, after those that do not count.
        count: requests of a turn.
        untimed: requests before them in the turn, which bring back what others drove out of the caches.
        untimed_rounds: rounds at the start that do not count.
    """
    times = {name: Times() for name in entrants}
    for turn in range(-untimed_rounds, rounds):
        for name, entrant in entrants.items():
            reply = entrant.worker.ask(
                do="time",
                of=entrant.contestant,
                requests=entrant.requests,
                begin=max(turn, 0) * count,
                count=count,
                untimed=untimed,
            )
            if turn >= 0:
                times[name].rounds.append([value * entrant.scale for value in reply["seconds"]])
    return times
