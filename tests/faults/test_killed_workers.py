"""SIGKILL of the process that computes a stage: it goes on from its last epoch, and costs nothing else."""

import time
from pathlib import Path

import psutil

from sweeps.store import ATTEMPTS, PROGRESS, RESULT
from tests.faults.sweep_process import (
    EPOCHS,
    SweepProcess,
    assert_nothing_half_written,
    assert_recorded_once,
    assert_same_results,
    entries,
    epochs_done,
    read,
    running,
    stopped_holder,
    sweep_words,
    training,
)


def kill(sweep: SweepProcess, entry: Path) -> tuple[int, int]:
    """Kill the process that computes an entry; the last epoch that it kept, and when, in ms since 1970."""
    holder = stopped_holder(sweep, entry)
    epoch, killed_ms = epochs_done(entry), time.time_ns() // 1_000_000
    holder.kill()
    holder.wait(30)
    return epoch, killed_ms


def measuring(sweep: SweepProcess) -> list[psutil.Process]:
    """The fresh processes in which a network is being measured at this moment."""
    return [
        one for one in sweep.processes() if one.is_running() and "easrec.evaluation.measure" in _words(one)
    ]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def test_each_stage_goes_on_from_its_last_epoch_when_its_process_is_killed(
    undisturbed: Path, options: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "sweep"
    killed = {}
    with running(sweep_words(options, output), output) as sweep:
        for kind in ("warm", "search", "retrain"):
            entry = sweep.until(training(output, kind, epochs=3), f"{kind} in training")
            killed[entry] = kill(sweep, entry)
        sweep.until(lambda: measuring(sweep) or None, "measurement")
        (measured,) = entries(output, "measure")[-1:]
        orphans = measuring(sweep)
        begun = read(measured / ATTEMPTS)
        kill(sweep, measured)
        _, alive = psutil.wait_procs(orphans, timeout=30)
        assert not alive, "what is measured anew must not be disturbed by what was measured before"
        status, said, errors = sweep.end()
    assert status == 0, said + errors
    assert "Traceback" not in said + errors

    for entry, (epoch, killed_ms) in killed.items():
        epochs = read(entry / RESULT)["value"]["epochs"]
        assert [report["epoch"] for report in epochs] == list(range(1, EPOCHS + 1))
        before = [report["epoch"] for report in epochs if report["timestamp_ms"] <= killed_ms]
        assert before in ([*range(1, epoch + 1)], [*range(1, epoch + 2)]), (
            "epochs whose checkpoint was kept were trained before the kill, and none of them again"
        )
        assert 3 <= epoch < EPOCHS
        # The process that went on was another one, which had to begin an attempt of its own.
        first_ms, latest_ms = read(entry / ATTEMPTS)
        assert first_ms < killed_ms < latest_ms
    assert read(measured / ATTEMPTS)[1] > begun[1] and read(measured / RESULT)["error"] is None
    assert not (measured / PROGRESS).exists()
    assert_same_results(output, undisturbed)
    assert_recorded_once(output)
    assert_nothing_half_written(output)
