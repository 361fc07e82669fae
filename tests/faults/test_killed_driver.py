"""SIGKILL of the program itself, again and again: a resumed sweep finds what an undisturbed one finds."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sweeps.store import RESULT
from tests.faults.sweep_process import (
    EPOCHS,
    PATIENCE_S,
    SweepProcess,
    assert_nothing_half_written,
    assert_recorded_once,
    assert_same_results,
    end_at_once,
    entries,
    epochs_done,
    finished,
    started,
    sweep_words,
)

STAGES = (
    "start", "warm", "warm", "search", "search", "retrain", "retrain", "measure", "recording", "recording",
)  # fmt: skip
"""Where the ten kills fall; each in the middle of such a stage, at a moment of chance."""


@dataclass(frozen=True)
class Moment:
    """When the driver is killed."""

    stage: str
    epochs: int
    """Epochs of the stage that this run of the sweep has done then, if it is one of training."""
    pause_s: float
    """How long after that."""
    group: bool
    """Whether Ray's servers are killed with it, as by a terminal or a batch system."""


def draw(seed: int) -> list[Moment]:
    """Ten moments of chance."""
    chance = random.Random(seed)
    longest_s = {"start": 4.0, "measure": 2.0, "recording": 1.5}
    return [
        Moment(
            stage,
            chance.randint(1, EPOCHS // 4),
            chance.uniform(0, longest_s.get(stage, 0.1)),
            chance.random() < 0.5,
        )
        for stage in STAGES
    ]


def reached(moment: Moment, output: Path) -> Callable[[], bool | None]:
    """What tells that a sweep that is started now has come to a moment, but for its pause."""

    def epochs() -> int:
        found = 0
        for entry in entries(output, moment.stage):
            found += EPOCHS if (entry / RESULT).exists() else epochs_done(entry)
        return found

    def written_ns() -> int:
        table = output / "results.parquet"
        return table.stat().st_mtime_ns if table.exists() else 0

    if moment.stage == "start":
        return lambda: True
    if moment.stage == "measure":
        return lambda: any(not (entry / RESULT).exists() for entry in entries(output, "measure")) or None
    if moment.stage == "recording":
        before = written_ns()
        return lambda: written_ns() > before or None
    begun = epochs()
    return lambda: epochs() >= begun + moment.epochs or None


def kill(sweep: SweepProcess, moment: Moment) -> bool:
    """Kill the driver at a moment of its run; False if it ended within the pause."""
    sweep.until(reached(moment, sweep.output), moment.stage)
    time.sleep(moment.pause_s)
    if sweep.process.poll() is not None:
        assert sweep.end()[0] == 0, sweep.said()
        return False
    if moment.group:
        os.killpg(sweep.process.pid, signal.SIGKILL)
    else:
        sweep.process.send_signal(signal.SIGKILL)
    assert sweep.process.wait(30) == -signal.SIGKILL
    return True


def test_a_driver_killed_at_ten_random_moments_and_resumed_gives_the_undisturbed_results(
    undisturbed: Path, options: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "sweep"
    seed = int(os.environ.get("EASREC_FAULTS_SEED", time.time_ns() // 1_000_000))
    print(f"the same moments again by EASREC_FAULTS_SEED={seed}")
    killed: list[SweepProcess] = []
    kills = 0
    try:
        moments = draw(seed)
        while moments:
            moment = moments[0]
            print(moment)
            # What the run before has left of its processes may still be there, as when a user is quick.
            resume = (output / "sweep.json").exists()
            with started(sweep_words(options, output, resume=resume), output) as sweep:
                killed.append(sweep)
                if kill(sweep, moment):
                    kills += 1
                    del moments[0]
                else:
                    assert moment.pause_s > 0, f"{moment} is never reached"
                    moments[0] = replace(moment, pause_s=0.0)
        attempts = {kind: len(entries(output, kind)) for kind in ("warm", "search", "retrain", "measure")}
        assert all(attempts.values()), attempts
        said = finished(sweep_words(options, output, resume=True), output)
        assert "broke off" not in said
        deadline_s = time.monotonic() + min(PATIENCE_S, 60)
        while left := [process for sweep in killed for process in sweep.processes()]:
            assert time.monotonic() < deadline_s, f"Ray's processes end with the driver, not so {left}"
            time.sleep(0.2)
    finally:
        for sweep in killed:
            end_at_once(sweep)
    assert kills == 10
    assert_same_results(output, undisturbed)
    assert_recorded_once(output)
    assert_nothing_half_written(output)
