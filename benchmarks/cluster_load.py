"""How busy a sweep keeps a cluster of many GPUs, and what its driver costs.

    python benchmarks/cluster_load.py

Trials that sleep for a known time, in place of training, go through the driver of a sweep: `sweeps.tuner`,
the progress display, and the recording into an MLflow database. They leave epochs, results and a network in
the store as trained ones do. The cluster is Ray's own for tests: as many nodes as asked for on this machine,
whose GPUs are numbers. All processes of it are real, so 64 of them need some 15 GB of memory. The result is
printed and written to the section "Load of a cluster" of RESULTS.md. It takes seven minutes.
"""

import os
import secrets

# Read by Ray when it is imported: the nodes that this process starts must ask for the token that it has.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
# Where the processes of many nodes share a few cores, one may take minutes to come up: Ray would kill it
# after a minute, start another, and never be done. It would also start spare ones, which are 64 more here.
os.environ |= {
    "RAY_worker_register_timeout_seconds": "900",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_memory_monitor_refresh_ms": "0",
}

import dataclasses
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from report import command, conditions, markdown_table, own_versions, paragraph, verdict, write_section
from rich.console import Console
from script import run_script

from easrec.data.sequences import SplitData, leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from easrec.evaluation.protocols import PROTOCOLS
from easrec.models.saving import save_network
from easrec.models.transformer import SequentialRecommender
from easrec.training import EpochReport
from sweeps.cluster import Cluster, ray_cluster  # before Ray, whose settings it chooses
from sweeps.config import SweepConfig
from sweeps.mlflow_store import create_store
from sweeps.plan import build_trials, preset_of
from sweeps.presets import Preset
from sweeps.progress import Watcher
from sweeps.recording import TrialRecording
from sweeps.records import flatten, trial_record
from sweeps.reporter import ProgressReporter
from sweeps.store import OnBusy, Store, Workspace, code_version, now_ms
from sweeps.tracking import SweepRecorder
from sweeps.trainable import SharedData
from sweeps.trial import ARCHITECTURE, NETWORK, TrialConfig
from sweeps.tuner import train_trials

from ray import tune  # isort: skip
from ray.cluster_utils import Cluster as Machines  # isort: skip

_BYTES_PER_TRIAL = 250e6
_SLEPT = "slept.txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadConfig:
    """Sweep trials that sleep over a cluster of GPUs that are not there."""

    trials: int = 1000
    """Trials."""
    nodes: int = 8
    """Nodes of the cluster, beside the head, which takes no trials."""
    gpus_per_node: int = 8
    """GPUs, and CPUs, of a node; each trial takes one of each."""
    seconds: float = 20.0
    """How long a trial sleeps."""
    epochs: int = 10
    """Epochs of a trial, after each of which it reports as a search does."""

    def check(self) -> None:
        """Refuse what cannot be run here.

        Raises:
            InputError: names the option, or the memory that is missing.
        """
        for name in ("trials", "nodes", "gpus_per_node", "epochs", "seconds"):
            if getattr(self, name) <= 0:
                option = name.replace("_", "-")
                raise InputError(f"--{option} must be above 0, got {getattr(self, name)}")
        if self.trials < 2 * self.gpus:
            raise InputError(
                f"--trials {self.trials} is less than twice the {self.gpus} GPUs, so nothing would be "
                "started again; ask for more"
            )
        needed, free = self.gpus * _BYTES_PER_TRIAL, psutil.virtual_memory().available
        if needed > free:
            raise InputError(
                f"{self.gpus} GPUs need {needed / 1e9:.0f} GB of memory for as many processes, and "
                f"{free / 1e9:.0f} GB are free; ask for fewer by --nodes"
            )

    @property
    def gpus(self) -> int:
        """All of the cluster."""
        return self.nodes * self.gpus_per_node


def sleep(
    config: Mapping[str, Any],
    *,
    trials: Mapping[str, TrialConfig],
    data: SharedData,
    store: Store,
    on_busy: OnBusy,
    share: float | None,
) -> None:
    """What a trial does here: sleeps through its epochs, and leaves what `sweeps.trainable.train` would.

    The share of its time that counts as busy begins and ends here, so what Ray and the driver do between two
    trials is idle time.
    """
    trial = trials[config["trial"]]
    architecture = trial.space.architecture(0, 1)
    template = store.root.parent / "template"
    seconds, processes = map(float, (template / _SLEPT).read_text().split())
    data.get()
    # Where processes take longer to come up than trials to end, as many on one machine do, Ray Tune gives up
    # those that are coming for those that have just become free, and there are never enough.
    ready = store.root.parent / "ready"
    (ready / str(os.getpid())).touch()
    while len(os.listdir(ready)) < processes:
        time.sleep(0.2)
    start_s = time.time()

    def search(workspace: Workspace) -> dict[str, Any]:
        epochs = []
        for epoch in range(1, trial.search.search_epochs + 1):
            left_s = start_s + seconds * epoch / trial.search.search_epochs - time.time()
            time.sleep(max(left_s, 0.0))
            metrics = {"train_loss": 1 / epoch, "resource": 0.5, "temperature": 1.0}
            report = EpochReport(
                "search", epoch, trial.search.search_epochs, metrics, seconds, now_ms(), 1000.0
            ).to_dict()
            epochs.append(report)
            workspace.record(report)
        return {
            "architecture": architecture.to_dict(),
            "candidate": 0,
            "epochs": epochs,
            "search_s": seconds,
            "latencies_ms": [],
        }

    def retraining(workspace: Workspace) -> dict[str, Any]:
        for file in template.rglob("*"):
            if file.is_file() and file.name != _SLEPT:
                copy = workspace.directory / file.relative_to(template)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
        metrics = {
            f"{split}/{protocol}/{metric}_at_10": 0.1
            for split in ("valid", "test")
            for protocol in PROTOCOLS
            for metric in ("recall", "mrr", "ndcg")
        }
        report = EpochReport("retrain", 1, 1, {"train_loss": 1.0}, 0.0, now_ms(), 1000.0).to_dict()
        slept = {"start_s": start_s, "end_s": time.time(), "process": os.getpid()}
        return {"epochs": [report], "best_epoch": 1, "metrics": metrics, "retrain_s": 0.0, "slept": slept}

    held = store.owned_by(f"trial {trial.trial_id}")
    held.get_or_compute("search", trial.search_key, search)
    held.get_or_compute("retrain", trial.retrain_key(architecture), retraining)
    tune.report({"status": "finished"})


@contextmanager
def machines(config: LoadConfig) -> Iterator[str]:
    """The address of a cluster for the length of a `with`."""
    cluster = Machines(
        initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(config.nodes):
            cluster.add_node(wait=False, num_cpus=config.gpus_per_node, num_gpus=config.gpus_per_node)
        cluster.wait_for_nodes(timeout=300)
        yield cluster.address
    finally:
        cluster.shutdown()


class ThreadTimes:
    """Processor seconds of each thread of this process, also of those that have ended; by name."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._names: dict[int, str] = {}
        self._before: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="this measurement", daemon=True)

    def __enter__(self) -> "ThreadTimes":
        self._sample()
        self._before = dict(self._seconds)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def seconds(self) -> dict[str, float]:
        """Seconds between `with` and its end; those that Ray's libraries started without Python are one."""
        found: dict[str, float] = {}
        for thread, seconds in self._seconds.items():
            name = self._names.get(thread, "Ray's own threads")
            found[name] = found.get(name, 0.0) + seconds - self._before.get(thread, 0.0)
        return found

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self._sample()

    def _sample(self) -> None:
        for thread in threading.enumerate():
            if thread.native_id is not None:
                self._names[thread.native_id] = thread.name
        for each in psutil.Process().threads():
            self._seconds[each.id] = each.user_time + each.system_time


@dataclass(frozen=True)
class Load:
    """What was measured."""

    busy: float
    """Share of GPU time in which a trial slept, from the first moment at which all did to the last start."""
    filling_s: float
    """From the first start to the first moment at which all GPUs had a trial."""
    wall_s: float
    """From the first start to the end of the last trial."""
    gaps_s: list[float]
    """Between the end of a trial and the start of the next in the same process."""
    lead_s: float
    """From the call of `train_trials` to the first start."""
    cores: float
    """Processor seconds of the driver in each second of `train_trials`."""
    threads: dict[str, float]
    """Processor seconds by thread."""
    snapshot_s: float
    """What a look of the progress display takes when all trials have finished."""


def sweep(config: LoadConfig, path: Path, cluster: Cluster, data: SplitData, preset: Preset) -> Load:
    """Run the trials as `sweeps.sweep` does, and measure."""
    grid = tuple(index / config.trials for index in range(config.trials))
    preset = dataclasses.replace(preset, tradeoffs=grid)
    trials = build_trials(
        SweepConfig(preset="smoke"), preset, data, device="cuda", code_version=code_version()
    )
    store, shared = Store(path / "store"), SharedData.put(data)
    template = path / "template"
    template.mkdir()
    (template / _SLEPT).write_text(f"{config.seconds} {config.gpus}")
    (path / "ready").mkdir()
    network = SequentialRecommender(preset.space.architecture(0, 1), data.num_items, preset.search.max_length)
    save_network(network, template / NETWORK)
    (template / ARCHITECTURE).write_text("{}")
    warm = EpochReport("warmup", 1, 1, {"loss": 1.0}, 1.0, now_ms(), 1000.0).to_dict()
    store.get_or_compute("warm", trials[0].warm_key, lambda _: {"epochs": [warm], "warmup_s": 1.0})

    uri, began_ms, began_s = create_store(path), now_ms(), time.monotonic()
    settings = flatten({"preset": "smoke"})
    recording = TrialRecording(
        lambda: SweepRecorder(uri, "load", start_ms=began_ms, run_name="load"),
        lambda trial: trial_record(trial, data, store, settings=settings, tags={}),
        print,
    )
    by_id = {trial.trial_id: trial for trial in trials}
    watcher = Watcher(trials, store, since_ms=began_ms)
    with (path / "progress.txt").open("w") as file, ThreadTimes() as threads:
        reporter = ProgressReporter(
            watcher, Console(file=file, width=200), slots=cluster.slots, patience=preset.retrain.patience,
            elapsed_s=lambda: time.monotonic() - began_s,
        )  # fmt: skip
        before_s, called_s = time.process_time(), time.time()
        with reporter, recording:
            crashed = train_trials(
                trials, shared, store, cluster, on_busy="defer", program=sleep,
                on_end=lambda trial_id: recording.ended(by_id[trial_id]),
            )  # fmt: skip
            took_s = time.time() - called_s
            processor_s = time.process_time() - before_s
    if crashed:
        raise InputError(f"{len(crashed)} trials broke off, the first with: {next(iter(crashed.values()))}")
    _check_recorded(uri, config.trials)
    before_s = time.perf_counter()
    watcher.snapshot()
    snapshot_s = time.perf_counter() - before_s

    architecture = preset.space.architecture(0, 1)
    slept = [store.entry("retrain", trial.retrain_key(architecture)).value()["slept"] for trial in trials]
    first_s = min(each["start_s"] for each in slept)
    last_s = max(each["start_s"] for each in slept)
    full_s = first_full([(each["start_s"], each["end_s"]) for each in slept], config.gpus)
    busy_s = sum(max(min(each["end_s"], last_s) - max(each["start_s"], full_s), 0.0) for each in slept)
    of_process: dict[int, list[dict[str, float]]] = {}
    for each in sorted(slept, key=lambda each: each["start_s"]):
        of_process.setdefault(each["process"], []).append(each)
    return Load(
        busy=busy_s / (config.gpus * (last_s - full_s)),
        filling_s=full_s - first_s,
        wall_s=max(each["end_s"] for each in slept) - first_s,
        gaps_s=[
            after["start_s"] - each["end_s"] for row in of_process.values() for each, after in pairwise(row)
        ],
        lead_s=first_s - called_s,
        cores=processor_s / took_s,
        threads=threads.seconds(),
        snapshot_s=snapshot_s,
    )


def first_full(spans: list[tuple[float, float]], slots: int) -> float:
    """The first moment at which `slots` of some spans of time lie over each other.

    Raises:
        InputError: there is none.
    """
    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    running = 0
    for moment, change in events:
        running += change
        if running == slots:
            return moment
    raise InputError(
        f"the {slots} GPUs never had a trial each at one time; let trials sleep longer by --seconds"
    )


def _check_recorded(uri: str, trials: int) -> None:
    """Nothing is timed that did not do its work: MLflow must have every trial."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "easrec"]
    runs = client.search_runs(
        [experiment.experiment_id], "tags.`easrec.kind` = 'trial'", max_results=trials + 1
    )
    if len(runs) != trials or any(run.info.status != "FINISHED" for run in runs):
        raise InputError(f"MLflow has {len(runs)} of {trials} trials; see what it printed above")


def run(config: LoadConfig) -> None:
    """Measure, print and write."""
    config.check()
    preset = preset_of(SweepConfig(preset="smoke"))
    preset = dataclasses.replace(
        preset,
        transfer_from="searched",  # so that no two trials share a retraining
        search=dataclasses.replace(preset.search, search_epochs=config.epochs),
    )
    data = leave_one_out(synthetic_interactions(1000, 500, 50, seed=0))
    with tempfile.TemporaryDirectory(prefix="easrec-load-") as folder, machines(config) as address:
        options = SweepConfig(ray_address=address, device="cuda", preset="smoke")
        with ray_cluster(options) as cluster:
            if cluster.slots != config.gpus:
                raise InputError(f"the cluster runs {cluster.slots} trials at once, not {config.gpus}")
            load = sweep(config, Path(folder), cluster, data, preset)
    _report(config, load)


def _report(config: LoadConfig, load: Load) -> None:
    named = {"MainThread": "Ray Tune's loop", "progress": "progress display", "recording": "MLflow"}
    times: dict[str, float] = {}
    for name, seconds in load.threads.items():
        shown = named.get(
            name, name if name in ("this measurement", "Ray's own threads") else "other threads"
        )
        times[shown] = times.get(shown, 0.0) + seconds
    whole_s = sum(times.values())
    gaps = statistics.quantiles(load.gaps_s, n=20)
    made_with = conditions(
        command("cluster_load.py", config),
        own_versions("easrec", "ray", "mlflow"),
        "glibc's own allocator settings",
    )
    notes = f"""{config.trials:,} trials of {config.seconds:g} s and {config.epochs} epochs on {config.nodes}
    nodes of {config.gpus_per_node} GPUs each, one GPU a trial. The nodes are Ray's own for tests, all on this
    machine, and their GPUs are numbers; trials sleep in place of training, in processes of their own, and
    leave epochs, results and a network of the smoke preset in a store on a local disk. The first trials wait
    for each other before they count: here {config.gpus} processes import torch on the same cores, while on a
    cluster each node starts its own. Recorded in an MLflow database in a file. Nothing of a network between
    machines is in these figures. A turn is the time from the end of a trial to the start of the next one in
    the same process."""
    rows = [
        ["GPU time busy, until the last start", f"{load.busy:.1%}"],
        ["until all GPUs had a trial", f"{load.filling_s:.1f} s"],
        ["all trials", f"{load.wall_s:.1f} s"],
        ["the first start after", f"{load.lead_s:.1f} s"],
        ["a turn, median", f"{statistics.median(load.gaps_s) * 1000:.0f} ms"],
        ["a turn, p95", f"{gaps[-1] * 1000:.0f} ms"],
        ["processor cores of the driver", f"{load.cores:.2f}"],
        ["a look of the progress display at the end", f"{load.snapshot_s * 1000:.1f} ms"],
    ]
    shares = [
        [name, f"{seconds:.1f}", f"{seconds / whole_s:.0%}"]
        for name, seconds in sorted(times.items(), key=lambda item: -item[1])
    ]
    verdicts = [
        verdict("GPU time busy", 100 * load.busy, 95, "%"),
        verdict("cores of the driver", load.cores, 1, "cores", most=True),
    ]
    body = "\n\n".join(
        [
            made_with,
            paragraph(notes),
            markdown_table(("what", "figure"), rows),
            markdown_table(("thread of the driver", "processor seconds", "share"), shares),
            "\n".join(verdicts),
        ]
    )
    print(body)
    write_section("Load of a cluster", body)


if __name__ == "__main__":
    sys.exit(run_script(run, LoadConfig))
