"""What a sweep takes beside its computing: until its first training step, and between its trials.

    python benchmarks/sweep_overhead.py

Two programs take turns: a bare Tuner whose trainable imports torch and makes one step (`bare_tuner.py`), and
the smoke sweep, which also reads its data, opens its store and MLflow's, and warms a supernet up. Both are
timed from the start of their process to the end of the first training step. The sweep's store says when each
search and each retraining began and ended: what lies between them, while trials were still waiting, is what a
trial costs beyond its computing. The result is printed and written to the section "Overhead of a sweep" of
RESULTS.md.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from idle import Interval, idle_s_per_trial
from report import command, conditions, markdown_table, own_versions, paragraph, verdict, write_section
from script import run_script

from easrec.errors import InputError
from easrec.files import read_json
from sweeps.cluster import available_cpus
from sweeps.output import STORE
from sweeps.store import RESULT

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class OverheadConfig:
    """Measure what a sweep takes beside its computing."""

    rounds: int = 5
    """How often the two programs take turns."""
    trials: int = 16
    """Trials of each sweep."""

    def check(self) -> None:
        """Refuse what says nothing.

        Raises:
            InputError: names the option.
        """
        if self.rounds < 1:
            raise InputError(f"--rounds must be at least 1, got {self.rounds}")
        fewest = 4 * available_cpus()
        if self.trials < fewest:
            raise InputError(
                f"--trials {self.trials} keeps {available_cpus()} CPUs busy for too short a time; ask for "
                f"{fewest} or more"
            )


def timed(words: list[str], log: Path) -> float:
    """Run a program of this environment to its end; returns when it began, in seconds since 1970.

    Raises:
        RuntimeError: it failed; its messages are quoted.
    """
    start_s = time.time()
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(
            [sys.executable, *words], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ
        ).returncode
    if code:
        raise RuntimeError(f"{' '.join(words)} ended with status {code}: {log.read_text()[-2000:]}")
    return start_s


def bare_s(directory: Path) -> float:
    """From the start of a bare Tuner to its first training step, in seconds."""
    stepped = directory / "stepped"
    start_s = timed(["benchmarks/bare_tuner.py", str(stepped)], directory / "bare.log")
    return int(stepped.read_text()) / 1000 - start_s


def first_step_s(store: Path) -> float:
    """When the first training step of a sweep was done, in seconds since 1970: a step of its warm-up."""
    (result,) = (store / "warm").glob(f"*/{RESULT}")
    first = read_json(result)["value"]["epochs"][0]
    begun_s = first["timestamp_ms"] / 1000 - first["duration_s"]
    return float(begun_s + first["duration_s"] / first["metrics"]["steps"])


def computations(store: Path) -> list[Interval]:
    """All searches and retrainings of a sweep."""
    found = []
    for path in chain((store / "search").glob(f"*/{RESULT}"), (store / "retrain").glob(f"*/{RESULT}")):
        result = read_json(path)
        found.append(Interval(result["start_ms"] / 1000, result["end_ms"] / 1000))
    return found


def run(config: OverheadConfig) -> None:
    """Take turns, print and write the section."""
    config.check()
    bare, sweep, idle, walls = [], [], [], []
    tradeoffs = [f"{0.01 * 1.5**at:.4g}" for at in range(config.trials)]
    for turn in range(1, config.rounds + 1):
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch)
            bare.append(bare_s(directory))
            output = directory / "sweep"
            words = ["pipelines/lambda_sweep.py", "--preset", "smoke", "--output", str(output)]
            words += ["--tradeoffs", *tradeoffs]
            start_s = timed(words, directory / "sweep.log")
            walls.append(time.time() - start_s)
            store = output / STORE
            sweep.append(first_step_s(store) - start_s)
            idle.append(idle_s_per_trial(computations(store), available_cpus(), config.trials))
        print(
            f"round {turn} of {config.rounds}: first step after {bare[-1]:.2f} s (bare Tuner), "
            f"{sweep[-1]:.2f} s (sweep); {idle[-1]:.2f} s beside each trial's computing",
            flush=True,
        )
    rows = [
        ["a bare Tuner, to its first training step", *_quantiles(bare)],
        ["the smoke sweep, to its first training step", *_quantiles(sweep)],
        ["beside the computing of a trial", *_quantiles(idle)],
        [f"the whole sweep of {config.trials} trials", *_quantiles(walls)],
    ]
    later = statistics.median(own - other for own, other in zip(sweep, bare, strict=True))
    notes = f"""Medians over {config.rounds} rounds in which the two take turns, and the least and most.
    `beside the computing of a trial`: seconds of a slot in which neither a search nor a retraining was
    computed while trials were waiting, one trial per CPU at once: Ray's scheduling, the store, and the
    driver's recording where it holds trials up."""
    body = "\n\n".join(
        [
            paragraph(notes),
            markdown_table(("", "median s", "least", "most"), rows),
            "\n".join(
                [
                    verdict(
                        "first training step of the sweep after that of the Tuner", later, 3, "s", most=True
                    ),
                    verdict("a trial beyond its computing", statistics.median(idle), 1, "s", most=True),
                ]
            ),
            conditions(
                command("sweep_overhead.py", config),
                own_versions("torch", "ray", "mlflow"),
                "allocator as the programs choose it",
            ),
        ]
    )
    write_section("Overhead of a sweep", body)
    print(body)


def _quantiles(values: list[float]) -> list[str]:
    return [f"{value:.2f}" for value in (statistics.median(values), min(values), max(values))]


if __name__ == "__main__":
    sys.exit(run_script(run, OverheadConfig))
