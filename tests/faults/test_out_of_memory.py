"""Memory that runs out: smaller micro-batches with the same gradients; then a failure with the sizes."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from easrec.data.synthetic import synthetic_interactions
from sweeps.store import ATTEMPTS, RESULT
from tests.faults.short_of_memory import MIB
from tests.faults.sweep_process import (
    PATIENCE_S,
    ROOT,
    SweepProcess,
    assert_nothing_half_written,
    assert_recorded_once,
    entries,
    mlflow_runs,
    read,
    running,
    stopped_holder,
    sweep_words,
)

LESS_MIB, TOO_LITTLE_MIB = 300.0, 10.0
"""Less memory than a batch of 256 sequences needs, and less than the supernet."""
LESS_IN_A_WORKER_MIB = 450.0
"""Nearly enough: each time that a trial has used up its memory, another thread may ask for some."""
COMPILER_MIB = 70.0
"""What the code takes that torch loads with the first optimizer."""
LOST = "broke off"
"""What is said of a trial whose process was lost, and of no other."""
ATTEMPTS_AT_A_LIMIT = 5
"""The limit holds for all threads of a process. Where it meets one of Ray's own first, it ends the process: a
lost worker, which other tests are about, and no trial that is short of memory. Once the trial has its result
that is no harm: nobody works on it again."""

pytestmark = pytest.mark.skipif(
    not hasattr(psutil, "RLIMIT_DATA"), reason="only Linux limits the memory of another process"
)


def trial(directory: Path, more_mib: float) -> dict[str, Any]:
    """What `short_of_memory` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.short_of_memory", str(directory), str(more_mib)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_trial_trains_on_in_smaller_micro_batches_with_the_same_result(tmp_path: Path) -> None:
    plenty = trial(tmp_path / "plenty", 0)
    short = trial(tmp_path / "short", LESS_MIB)
    assert plenty["micro_batches"] == {} and plenty["params"].keys() == {
        "search.micro_batch_size", "retrain.micro_batch_size"
    }  # fmt: skip
    assert short["micro_batches"].keys() >= {"warmup", "search"}
    for stage, size in short["micro_batches"].items():
        assert size in (128, 64, 32, 16, 8, 4), stage
        assert short["params"][f"{stage}.micro_batch_size_used"] == size
    assert short["trial_id"] == plenty["trial_id"], "keys are those of what was asked"
    assert short["params"]["search.micro_batch_size"] == "none"
    np.testing.assert_allclose(short["losses"], plenty["losses"], rtol=1e-4)
    assert short["peak_mib"] < plenty["peak_mib"] - 100


def test_a_trial_that_never_fits_fails_with_the_sizes(tmp_path: Path) -> None:
    found = trial(tmp_path, TOO_LITTLE_MIB)
    assert re.fullmatch(
        r"out of memory in (step \d of warmup epoch 1, in micro-batches of [\d, ]*1 |the warm-up ).*"
        r"(\d+ sequences of 50 positions .* weights, an item table of 201 x 64|batches of 256 sequences of "
        r"up to 50 positions, 64 hidden dimensions, 200 items).*a machine with more memory \(.*\)",
        found["error"],
    ), found


@pytest.fixture(scope="module")
def large_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "log.parquet"
    interactions = synthetic_interactions(300, 200, 60, seed=0)
    columns = {"user_id": "users", "item_id": "items", "timestamp": "timestamps"}
    pd.DataFrame({name: getattr(interactions, of) for name, of in columns.items()}).to_parquet(path)
    return path


def limit(sweep: SweepProcess, entry: Path, more_mib: float) -> psutil.Process:
    """Let the process that computes an entry take only so much more memory than it has."""
    holder = stopped_holder(sweep, entry)
    status = Path(f"/proc/{holder.pid}/status").read_text()
    (data_kib,) = re.findall(r"^VmData:\s+(\d+) kB$", status, re.M)
    most = int(data_kib) * 1024 + int(more_mib * MIB)
    holder.rlimit(psutil.RLIMIT_DATA, (most, psutil.RLIM_INFINITY))
    holder.resume()
    return holder


def sweep_short_of_memory(log: Path, output: Path) -> tuple[int, str, str, Path, Path]:
    """A sweep of two trials, whose first search has less memory than it asks for and the second too little.

    Returns:
        Exit status, results and errors that it printed, and the entries of the two searches.
    """
    options = [
        # Two trials: a third would come to a process that cannot even take it, before its limit is lifted.
        "--data", str(log), "--preset", "smoke", "--tradeoffs", "0", "100", "--device", "cpu",
        "--hidden-size", "64", "--inner-size", "256", "--num-layers", "4", "--max-length", "50",
        "--batch-size", "256", "--warmup-epochs", "1", "--search-epochs", "2", "--retrain-epochs", "2",
        "--search-weights", "train",
    ]  # fmt: skip
    unlimited = (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY)
    with running(sweep_words(options, output), output) as sweep:
        begun: list[Path] = []
        holders = []
        # A search begins by loading torch's compiler. In the other order the second trial might come to the
        # process of the first, which has failed already.
        for more_mib in (LESS_IN_A_WORKER_MIB + COMPILER_MIB, TOO_LITTLE_MIB + COMPILER_MIB):
            new = sweep.until(lambda: set(entries(output, "search")) - set(begun) or None, "search")
            begun.append(min(new))
            holders.append(limit(sweep, begun[-1], more_mib))
        for entry, holder in zip(reversed(begun), reversed(holders), strict=True):  # too little ends sooner
            sweep.until(partial(read, entry / RESULT), "result of the search")
            with suppress(psutil.NoSuchProcess):  # of the trial that failed, it may have ended
                holder.rlimit(psutil.RLIMIT_DATA, unlimited)
        return *sweep.end(), *begun


def begun_again(entry: Path) -> bool:
    """Whether an entry of the store was worked on a second time."""
    first_ms, latest_ms = read(entry / ATTEMPTS)
    return bool(first_ms != latest_ms)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="both trials need a fresh process of their own")
def test_a_sweep_goes_on_when_one_trial_has_less_memory_and_another_too_little(
    large_log: Path, tmp_path: Path
) -> None:
    for attempt in range(ATTEMPTS_AT_A_LIMIT):
        output = tmp_path / f"sweep-{attempt}"
        try:
            status, said, errors, less, too_little = sweep_short_of_memory(large_log, output)
        except AssertionError as error:  # of waiting for a search; it quotes what was printed
            assert LOST in str(error) and attempt + 1 < ATTEMPTS_AT_A_LIMIT, error
            continue
        if not (begun_again(less) or begun_again(too_little)):
            break
    assert not begun_again(less), "it goes on where it is"
    assert not begun_again(too_little), "what would fail again is not tried again"
    assert status == 1, said + errors
    assert "Traceback" not in said + errors or LOST in errors

    used = read(less / RESULT)["value"]["micro_batch_size"]
    assert used in (128, 64, 32, 16, 8, 4)
    assert f"search in micro-batches of {used}" in said
    error = read(too_little / RESULT)["error"]
    assert error.startswith("out of memory in ") and "256 sequences" in error
    assert f"failed: {error}" in said
    frame = pd.read_parquet(output / "results.parquet")
    assert sorted(frame["status"]) == ["failed", "finished"]
    assert_recorded_once(output)
    assert len(mlflow_runs(output)) == 3
    assert_nothing_half_written(output)
