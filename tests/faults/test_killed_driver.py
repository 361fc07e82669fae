"""SIGKILL of the program itself, again and again: a resumed sweep finds what an undisturbed one finds."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import psutil

from tests.faults.sweep_process import (
    SweepProcess,
    assert_nothing_half_written,
    assert_recorded_once,
    assert_same_results,
    finished,
    running,
    sweep_words,
)

KILLS = 10
SEED = 20


class Changes:
    """Counts the files that appear, change or go in a directory: moments that follow what a sweep does."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._before = self._look()
        self.count = 0

    def _look(self) -> dict[str, int]:
        found = {}
        for folder, _, names in os.walk(self._directory):
            for name in names:
                path = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    found[path] = os.stat(path).st_mtime_ns
        return found

    def at_least(self, number: int) -> bool | None:
        now = self._look()
        self.count += sum(
            now.get(path) != self._before.get(path) for path in now.keys() | self._before.keys()
        )
        self._before = now
        return True if self.count >= number else None


def killed(sweep: SweepProcess, moment: int, pause_s: float) -> list[psutil.Process]:
    """Kill the driver alone once so many files have changed; what it leaves, or nothing if it ended."""
    changes = Changes(sweep.output)
    while not changes.at_least(moment):
        if sweep.process.poll() is not None:
            status, said, errors = sweep.end()
            assert status == 0, said + errors
            return []
        time.sleep(0.005)
    time.sleep(pause_s)
    processes = sweep.processes()
    sweep.process.send_signal(signal.SIGKILL)
    sweep.process.wait(30)
    return processes


def test_a_driver_killed_at_ten_random_moments_and_resumed_gives_the_undisturbed_results(
    undisturbed: Path, options: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "sweep"
    moments = random.Random(SEED)
    kills = 0
    most = 120
    left: list[psutil.Process] = []
    while kills < KILLS:
        resume = (output / "sweep.json").exists()
        with running(sweep_words(options, output, resume=resume), output) as sweep:
            if processes := killed(sweep, moments.randrange(1, most), moments.uniform(0, 0.3)):
                kills += 1
                left += processes
            else:
                most = max(most // 2, 4)  # all is trained: what is left writes less
    finished(sweep_words(options, output, resume=True), output)
    assert_same_results(output, undisturbed)
    assert_recorded_once(output)
    assert_nothing_half_written(output)
    _, alive = psutil.wait_procs(left, timeout=30)
    assert not alive, "Ray's processes end with the driver"
