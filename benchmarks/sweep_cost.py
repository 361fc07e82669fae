"""What a sweep costs beside one plain training and beside the naive sweep, and what its front is worth.

    python benchmarks/sweep_cost.py

For each seed in turn: the full-size network trained by itself to early stopping, the default sweep,
the same sweep with each of the named variants, and with `--independent`, each as a process of its own.
Counted is the processor time of the program and of all processes that it starts, those of Ray too. What is
done is kept in the cache directory: a stopped run goes on by the same command. Results are printed and
written to the section "Cost of a sweep" of RESULTS.md.
"""

import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from report import command, conditions, markdown_table, own_versions, paragraph, verdict, write_section
from script import run_script

from easrec.data.catalog import default_cache_dir
from easrec.files import read_json, write_json
from easrec.nas.resources import network_flops
from sweeps.pareto import hypervolume
from sweeps.presets import PRESETS, Preset
from sweeps.store import code_version, content_key

ROOT = Path(__file__).parents[1]
VARIANTS = {"trained": "--search-weights train", "short": "--search-epochs 2"}
"""What makes a sweep dearer or cheaper, by name."""
_POLL_S = 0.5
ACCURACY = "valid/unseen/ndcg_at_10"


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepCostConfig:
    """Measure the cost and the worth of a sweep."""

    seeds: int = 3
    """How many seeds."""
    variant_seeds: int = 3
    """How many of them the variants are measured with: they cost as much as all the rest."""
    tradeoffs: tuple[float, ...] = ()
    """Grid of lambda. Left out: the preset's."""
    data: str = "ml-100k"
    """Data set by name or path."""
    preset: str = "quick"
    """Preset of the sweeps; the full-size network is its supernet's widest and deepest."""
    directory: Path | None = None
    """Where runs are kept; by default `sweep-cost` in the cache directory."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program took."""

    cpu_s: float
    """Processor time of the program and all that it started."""
    wall_s: float


class _ProcessTree:
    """Processor time of a process and of all processes that descend from it, those that ended too."""

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self._seen: dict[tuple[int, float], tuple[psutil.Process, float]] = {}

    def look(self) -> None:
        """Note how much every living process of the tree has used so far."""
        known = [process for process, _ in self._seen.values()]
        found = [self._root]
        # A process whose parent has ended is no longer below the root; it is still below what was seen.
        for process in [self._root, *known]:
            try:
                found += process.children(recursive=True)
            except psutil.NoSuchProcess:
                continue
        for process in [*found, *known]:
            try:
                times = process.cpu_times()
                key = (process.pid, process.create_time())
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            self._seen[key] = (process, times.user + times.system)

    @property
    def cpu_s(self) -> float:
        """The sum over all processes; of each, what it had used when it was last looked at."""
        return sum(seconds for _, seconds in self._seen.values())


def run_measured(words: list[str], log: Path) -> Cost:
    """Run a program of this environment to its end.

    Raises:
        RuntimeError: it failed; its messages are in `log`.
    """
    start_s = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        started = subprocess.Popen([sys.executable, *words], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
        tree = _ProcessTree(psutil.Process(started.pid))
        while started.poll() is None:
            tree.look()
            time.sleep(_POLL_S)
    if started.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with status {started.returncode}; see {log}")
    return Cost(tree.cpu_s, time.monotonic() - start_s)


def measured_once(directory: Path, name: str, words: list[str]) -> tuple[Path, Cost]:
    """The output of a program and what it took; run now unless an earlier run of this benchmark did."""
    output, done = directory / name, directory / f"{name}.json"
    if not done.is_file():
        print(f"{name} ...", flush=True)
        # A part of a run has cost that nobody has counted.
        shutil.rmtree(output, ignore_errors=True)
        cost = run_measured([*words, "--output", str(output)], directory / f"{name}.log")
        write_json(done, {"cpu_s": cost.cpu_s, "wall_s": cost.wall_s})
    cost = Cost(**read_json(done))
    print(f"{name}: {cost.cpu_s:.0f} s of processor time, {cost.wall_s:.0f} s", flush=True)
    return output, cost


def run(config: SweepCostConfig) -> None:
    """Run what is missing, print and write the section."""
    preset = PRESETS[config.preset]()
    space = preset.space
    tradeoffs = config.tradeoffs or preset.tradeoffs
    owner = content_key([code_version(), config.data, config.preset, list(tradeoffs)])
    directory = (config.directory or default_cache_dir() / "sweep-cost") / owner
    directory.mkdir(parents=True, exist_ok=True)
    sweeps = ("sweep", *VARIANTS, "independent")
    costs: dict[str, list[Cost]] = {"plain": [], **{name: [] for name in sweeps}}
    frames: dict[str, list[pd.DataFrame]] = {name: [] for name in sweeps}
    for seed in range(config.seeds):
        common = ["--dataset", config.data, "--seed", str(seed)]
        plain = [
            "pipelines/train_network.py", *common,
            "--hidden-size", str(space.hidden_size), "--inner-size", str(space.inner_size),
            "--num-layers", str(space.num_layers), "--num-heads", str(space.num_heads),
            "--max-length", str(preset.retrain.max_length), "--epochs", str(preset.retrain.max_epochs),
            "--patience", str(preset.retrain.patience), "--batch-size", str(preset.retrain.batch_size),
            "--learning-rate", str(preset.retrain.learning_rate),
        ]  # fmt: skip
        sweep = [
            "pipelines/lambda_sweep.py", *common, "--preset", config.preset,
            "--tradeoffs", *map(str, tradeoffs),
        ]  # fmt: skip
        programs = {
            "plain": plain,
            "sweep": sweep,
            **{name: [*sweep, *option.split()] for name, option in VARIANTS.items()},
            "independent": [*sweep, "--independent"],
        }
        for name, words in programs.items():
            if name in VARIANTS and seed >= config.variant_seeds:
                continue
            output, cost = measured_once(directory, f"{name}-seed{seed}", words)
            costs[name].append(cost)
            if name in frames:
                frames[name].append(pd.read_parquet(output / "results.parquet"))
    body = section(config, costs, {name: pd.concat(found) for name, found in frames.items()})
    write_section("Cost of a sweep", body)
    print(body)


def largest_flops(preset: Preset) -> float:
    """FLOPs of the network that has all of the space's layers and dimensions."""
    space = preset.space
    return float(
        max(
            network_flops(space.architecture(candidate, space.num_layers), preset.search.max_length)
            for candidate in range(len(space))
        )
    )


def section(config: SweepCostConfig, costs: dict[str, list[Cost]], frames: dict[str, pd.DataFrame]) -> str:
    """The text of the section, from what was measured of each seed."""
    names = {
        "plain": "the full-size network alone",
        "sweep": f"a sweep of {len(config.tradeoffs or PRESETS[config.preset]().tradeoffs)} lambdas",
        **{name: f"the same with {option}" for name, option in VARIANTS.items()},
        "independent": "the same with --independent",
    }
    every = pd.concat(frames.values())
    # Hypervolumes are compared, and need one bound: the worst of what any found, the largest of the space.
    reference = (float(every[ACCURACY].min()) - 0.01, largest_flops(PRESETS[config.preset]()))

    def share(name: str) -> float:
        """A hypervolume against that of the independent sweep with the same seeds."""
        own, naive = frames[name], frames["independent"]
        naive = naive[naive["seed"].isin(own["seed"])]
        found, whole = (hypervolume(frame, reference=reference, accuracy=ACCURACY) for frame in (own, naive))
        return found / whole

    volumes = {name: share(name) for name in frames}
    rows: list[list[str]] = []
    for name, title in names.items():
        cpu = [cost.cpu_s for cost in costs[name]]
        times = [own / plain.cpu_s for own, plain in zip(cpu, costs["plain"], strict=False)]
        frame: Any = frames.get(name)
        rows.append(
            [
                title,
                " ".join(f"{seconds:.0f}" for seconds in cpu),
                f"{statistics.median(times):.2f}",
                f"{statistics.median(cost.wall_s for cost in costs[name]):.0f}",
                "-" if frame is None else f"{frame['architecture_id'].nunique()}",
                "-" if frame is None else f"{volumes[name]:.3f}",
            ]
        )
    plain_times = statistics.median(
        own.cpu_s / plain.cpu_s for own, plain in zip(costs["sweep"], costs["plain"], strict=True)
    )
    naive_share = statistics.median(
        own.cpu_s / naive.cpu_s for own, naive in zip(costs["sweep"], costs["independent"], strict=True)
    )
    verdicts = [
        verdict("processor time of the sweep against one plain training", plain_times, 6, "times", most=True),
        verdict("processor time of the sweep against --independent", naive_share, 1 / 3, "", most=True),
        verdict("hypervolume against that of --independent", volumes["sweep"], 0.98, ""),
    ]
    notes = """Processor seconds of a program with all processes that it started, seed by seed; medians over
    seeds of times the plain training, and of wall time. `architectures`: different ones that all seeds
    derived. `hypervolume`: of the front of validation NDCG@10 and FLOPs over the means of all seeds, as a
    share of that of the independent sweep with the same seeds, above the lowest accuracy that any trial
    reached less 0.01 and below the FLOPs of the largest network of the space."""
    columns = ("", "processor s", "times plain", "wall s", "architectures", "hypervolume")
    libraries = own_versions("torch", "ray", "mlflow")
    return "\n\n".join(
        [
            paragraph(notes),
            markdown_table(columns, rows),
            "\n".join(verdicts),
            conditions(command("sweep_cost.py", config), libraries, "allocator as the programs choose it"),
        ]
    )


if __name__ == "__main__":
    sys.exit(run_script(run, SweepCostConfig))
