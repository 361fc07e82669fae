"""A small sweep as a process of its own, to be watched, disturbed and killed from outside."""

import contextlib
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import psutil

from sweeps.records import MEASURED
from sweeps.store import ATTEMPTS, PROGRESS, RESULT

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "pipelines" / "lambda_sweep.py"
TRADEOFFS = (0.0, 0.1, 100.0)
EPOCHS = 20
PATIENCE_S = float(os.environ.get("EASREC_FAULTS_PATIENCE_S", "300"))
"""How long anything that is waited for may take; a very busy machine needs more."""


def smoke_options(log: Path, *, tradeoffs: Sequence[float] = TRADEOFFS) -> list[str]:
    """A sweep in seconds, of stages with many short epochs: most moments are in the middle of one."""
    return [
        "--data", str(log), "--preset", "smoke", "--tradeoffs", *map(str, tradeoffs), "--device", "cpu",
        "--hidden-size", "16", "--inner-size", "32", "--num-heads", "2", "--max-length", "10",
        "--batch-size", "16", "--warmup-epochs", str(EPOCHS), "--search-epochs", str(EPOCHS),
        "--stable-epochs", str(EPOCHS), "--retrain-epochs", str(EPOCHS), "--patience", str(EPOCHS),
    ]  # fmt: skip


def sweep_words(options: Sequence[str], output: Path, *, resume: bool = False) -> list[str]:
    """The command line of a sweep."""
    words = [sys.executable, str(PROGRAM), *options, "--output", str(output)]
    return [*words, "--resume"] if resume else words


@dataclass
class SweepProcess:
    """A running sweep in a session of its own, by which all that it starts is known."""

    process: "subprocess.Popen[bytes]"
    output: Path
    printed: Path
    """Directory of the files that take what it prints; a pipe that nobody reads would stop it."""

    def until(self, what: Callable[[], T | None], name: str) -> T:
        """What `what` returns once that is something; fails if the sweep ends before."""
        deadline_s = time.monotonic() + PATIENCE_S
        while (found := what()) is None:
            if self.process.poll() is not None and what() is None:
                raise AssertionError(f"the sweep ended without {name}: {self.end()}")
            assert time.monotonic() < deadline_s, f"no {name} in {PATIENCE_S:.0f} s: {self.said()}"
            time.sleep(0.002)
        return found

    def said(self) -> str:
        """What it has printed so far, errors behind results."""
        return "".join((self.printed / name).read_text() for name in ("stdout", "stderr"))

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; the exit status and what was printed as a result and as warnings or errors."""
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the sweep has not ended in {PATIENCE_S:.0f} s: {self.said()}") from None
        return status, (self.printed / "stdout").read_text(), (self.printed / "stderr").read_text()

    def processes(self) -> list[psutil.Process]:
        """The driver and all that it has started, also after its death."""
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                if os.getsid(pid) == self.process.pid:
                    found.append(psutil.Process(pid))
        return found

    def holder(self, entry: Path) -> psutil.Process | None:
        """The process that computes an entry of the store: the one that has its lock open."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                if str(entry / "lock") in {file.path for file in process.open_files()}:
                    return process
        return None


@contextlib.contextmanager
def started(words: Sequence[str], output: Path, **environment: str) -> Iterator[SweepProcess]:
    """Start a sweep; what it leaves of its processes outlives the `with`."""
    with tempfile.TemporaryDirectory() as directory:
        printed = Path(directory)
        with (printed / "stdout").open("wb") as stdout, (printed / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                words,
                stdout=stdout,
                stderr=stderr,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
                start_new_session=True,
            )
        yield SweepProcess(process, output, printed)


@contextlib.contextmanager
def running(words: Sequence[str], output: Path, **environment: str) -> Iterator[SweepProcess]:
    """A sweep for the length of a `with`; what is left of it then is killed."""
    with started(words, output, **environment) as sweep:
        try:
            yield sweep
        finally:
            end_at_once(sweep)


def end_at_once(sweep: SweepProcess) -> None:
    """Kill a sweep and all that it has started."""
    left = sweep.processes()
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    sweep.process.wait(30)
    psutil.wait_procs(left, timeout=30)


def finished(words: Sequence[str], output: Path, *, status: int = 0) -> str:
    """Run a sweep to its end, which must be of that status and without a traceback; what it printed."""
    with running(words, output) as sweep:
        found, said, errors = sweep.end()
    assert found == status, said + errors
    assert "Traceback" not in said + errors, said + errors
    return said + errors


def command_to_go_on(said: str) -> list[str]:
    """The command that a sweep printed at its end."""
    found = re.findall(r"^  (\S*python\S* .*lambda_sweep.* --resume\b.*)$", said, re.M)
    assert found, said
    return shlex.split(found[-1])


def entries(output: Path, kind: str) -> list[Path]:
    """The directories of a kind of stage, those that were begun first."""
    begun = [path.parent for path in (output / "store" / kind).glob(f"*/{ATTEMPTS}")]
    return sorted(begun, key=lambda entry: read(entry / ATTEMPTS) or [0])


def read(path: Path) -> Any:
    """The content of a JSON file, or None where there is none."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def epochs_done(entry: Path) -> int:
    """The last epoch whose checkpoint is kept."""
    report = read(entry / PROGRESS)
    return 0 if report is None else int(report["epoch"])


def training(output: Path, kind: str, *, epochs: int) -> Callable[[], Path | None]:
    """What finds an entry of a kind that has done some epochs and is not through."""

    def find() -> Path | None:
        for entry in entries(output, kind):
            if epochs_done(entry) >= epochs and not (entry / RESULT).exists():
                return entry
        return None

    return find


def stopped_holder(sweep: SweepProcess, entry: Path) -> psutil.Process:
    """The process that computes an entry, stopped, so that what it has left there can be read in peace."""
    holder = sweep.until(lambda: sweep.holder(entry), f"a process that holds {entry}")
    holder.send_signal(signal.SIGSTOP)
    return holder


def assert_same_results(output: Path, other: Path) -> None:
    """Two tables of results agree in every digit of every column but those that are measured."""
    first, second = (_unmeasured(pd.read_parquet(each / "results.parquet")) for each in (output, other))
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def _unmeasured(frame: pd.DataFrame) -> pd.DataFrame:
    # What a stopwatch or a measurement says differs each time.
    measured = {*MEASURED, "pareto_latency"}
    kept = [name for name in frame.columns if name not in measured and not name.endswith("_s")]
    assert {"architecture_id", "valid/unseen/ndcg_at_10", "test/full/ndcg_at_10", "flops", "pareto"} <= set(
        kept
    )
    assert len(kept) > 30
    return frame[kept]


def mlflow_runs(output: Path) -> list[tuple[str, str]]:
    """(trial id, or '' for the sweep; status) of every run in the directory's store."""
    with contextlib.closing(sqlite3.connect(output / "mlflow.db")) as database:
        return sorted(
            database.execute(
                "select coalesce(t.value, ''), r.status from runs r left join tags t "
                "on t.run_uuid = r.run_uuid and t.key = 'easrec.trial_id'"
            ).fetchall()
        )


def assert_recorded_once(output: Path) -> None:
    """MLflow has one run of the sweep and one of each trial, and their figures are those of the table."""
    frame = pd.read_parquet(output / "results.parquet").set_index("trial_id")
    states = {"finished": "FINISHED", "failed": "FAILED"}
    expected = [("", "FINISHED"), *((trial, states[row["status"]]) for trial, row in frame.iterrows())]
    assert mlflow_runs(output) == sorted(expected)
    with contextlib.closing(sqlite3.connect(output / "mlflow.db")) as database:
        rows = database.execute(
            "select t.value, m.key, m.value from latest_metrics m join tags t "
            "on t.run_uuid = m.run_uuid and t.key = 'easrec.trial_id'"
        ).fetchall()
    for trial, name, value in rows:
        if name in frame.columns:
            assert frame.loc[trial, name] == value, f"{name} of {trial}"
    assert {(trial, "flops") for trial, status in mlflow_runs(output) if trial and status == "FINISHED"} <= {
        (trial, name) for trial, name, _ in rows
    }


def assert_nothing_half_written(output: Path) -> None:
    """No file that was being written is left, and every JSON file is whole."""
    assert not list(output.rglob(".unfinished-*"))
    for path in output.rglob("*.json"):
        json.loads(path.read_text())


def as_user_without_privileges(words: Sequence[str]) -> list[str]:
    """A command that file permissions hold for, even where the tests run as root."""
    if os.geteuid() != 0:
        return list(words)
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *words]
