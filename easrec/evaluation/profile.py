"""What a network costs on this machine: latency, time for all users, memory.

A measurement has a process of its own. `profile_network` starts `python -m easrec.evaluation.profile`, which
imports what is needed once and forks into one process for inference and, after that has ended, one for
training: neither has the memory or the threads of the other, nor of the caller. Only file paths and numbers
pass between them.

Legend: B sequences, N positions (`max_length`), V items.
"""

import ctypes
import dataclasses
import gc
import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from easrec.data.batches import Batch, training_batches
from easrec.data.sequences import Int64s, SplitData
from easrec.files import read_json, write_json
from easrec.models.architecture import Architecture
from easrec.models.saving import load_network
from easrec.models.transformer import SequentialRecommender
from easrec.training import move, training_form

MIB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileConfig:
    """How a network is measured."""

    threads: int = 1
    """CPU threads of torch, whatever the caller's are."""
    warmup: int = 20
    """Requests of one user that are not timed."""
    repeats: int = 200
    """Requests of one user that are timed."""
    top_k: int = 10
    """Items that a request is answered with."""
    batch_size: int = 256
    """Users scored at once where all test users are."""
    passes: int = 3
    """Times that all test users are scored; the median counts."""
    train_steps: int = 3
    """Training steps whose peak memory is taken."""
    seed: int = 0
    """Seed of the items of requests and of the training batches."""

    def __post_init__(self) -> None:
        for name in ("threads", "repeats", "top_k", "batch_size", "passes", "train_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What a network costs."""

    latency_ms_p50: float
    """Median time of a request: one user, N items, ids in to top-10 out; milliseconds."""
    latency_ms_p95: float
    """Time within which 95 % of these requests are answered; milliseconds."""
    inference_s: float
    """Time for all test users, in batches, ids in to top-10 out; seconds."""
    peak_memory_mib: float
    """Peak memory of loading the network and of both measurements above, over what the process held before:
    resident memory on a CPU, allocated memory on a GPU; MiB."""
    train_peak_memory_mib: float
    """The same of building the network and of training steps with Adam; MiB."""
    threads: int
    """CPU threads that torch had."""
    device: str
    """Where the network ran."""


def profile_network(
    network_dir: Path | str,
    data: SplitData,
    config: ProfileConfig,
    *,
    device: str = "cpu",
    train_batch_size: int = 128,
) -> Profile:
    """Measure a saved network in fresh processes. Nothing else should run on the machine meanwhile.

    Args:
        network_dir: what `save_network` wrote.
        data: its test questions are answered, its training histories trained on.
        config: how to measure.
        device: where the network runs.
        train_batch_size: B of the training steps.

    Raises:
        RuntimeError: a process failed; its message is in this one's.
    """
    if train_batch_size < 1:
        raise ValueError(f"train_batch_size must be at least 1, got {train_batch_size}")
    with tempfile.TemporaryDirectory(prefix="easrec-profile-") as folder:
        arrays, rest = data.to_arrays()
        np.savez(Path(folder) / "data.npz", **arrays)  # type: ignore[arg-type]
        request = {
            "network_dir": str(Path(network_dir).absolute()),
            "data": rest,
            "config": dataclasses.asdict(config),
            "device": device,
            "train_batch_size": train_batch_size,
        }
        write_json(Path(folder) / "request.json", request)
        command = [sys.executable, "-m", "easrec.evaluation.profile", folder]
        run = subprocess.run(
            command,
            env=_environment(config.threads),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if run.returncode:
            trace = run.stderr.strip() or f"its process ended with status {run.returncode}"
            raise RuntimeError(
                f"measuring the network in {network_dir} failed: {trace.splitlines()[-1]}\n\n{trace}"
            )
        measured = [read_json(Path(folder) / f"{name}.json") for name in MEASUREMENTS]
    return Profile(**measured[0], **measured[1], device=device)


def _environment(threads: int) -> dict[str, str]:
    """The caller's environment, in which the child finds this package and its own number of threads."""
    package_root = str(Path(__file__).parents[2])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return os.environ | dict.fromkeys(variables, str(threads)) | {"PYTHONPATH": os.pathsep.join(paths)}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """What a measuring process is given."""

    network_dir: Path
    data: SplitData
    config: ProfileConfig
    device: str
    train_batch_size: int

    @classmethod
    def read(cls, folder: Path) -> "_Task":
        request = read_json(folder / "request.json")
        with np.load(folder / "data.npz", allow_pickle=False) as arrays:
            data = SplitData.from_arrays(dict(arrays), request["data"])
        return cls(
            network_dir=Path(request["network_dir"]),
            data=data,
            config=ProfileConfig(**request["config"]),
            device=request["device"],
            train_batch_size=request["train_batch_size"],
        )

    def load_network(self) -> SequentialRecommender:
        model = load_network(self.network_dir, device=self.device)
        if model.num_items != self.data.num_items:
            raise ValueError(
                f"the network in {self.network_dir} is for {model.num_items} items, but data set "
                f"{self.data.name!r} has {self.data.num_items}"
            )
        return model


def _measure_inference(task: _Task) -> dict[str, float]:
    """Latency, time for all test users, and the peak memory of both."""
    config, data = task.config, task.data
    rehearsal = _tiny_network(task)
    _answer(rehearsal, np.ones((2, rehearsal.max_length), dtype=np.int64), task)
    del rehearsal
    before = _memory_before(task.device)
    model = task.load_network()

    generator = np.random.default_rng(config.seed)
    shape = (config.warmup + config.repeats, 1, model.max_length)
    requests = generator.integers(1, model.num_items + 1, size=shape)
    latencies_s = [_timed(task, lambda ids=ids: _answer(model, ids, task)) for ids in requests]
    p50, p95 = np.percentile(latencies_s[config.warmup :], [50, 95]) * 1000

    questions = np.arange(len(data.test.rows))
    starts = range(0, len(questions), config.batch_size)
    batches = [questions[start : start + config.batch_size] for start in starts]

    def answer_all() -> None:
        for index in batches:
            item_ids, lengths = data.histories("test", index, model.max_length)
            _answer(model, item_ids, task, lengths)

    passes_s = [_timed(task, answer_all) for _ in range(config.passes)]
    return {
        "latency_ms_p50": float(p50),
        "latency_ms_p95": float(p95),
        "inference_s": float(np.median(passes_s)),
        "peak_memory_mib": _peak_memory_mib(task.device, before),
        "threads": torch.get_num_threads(),
    }


def _measure_training(task: _Task) -> dict[str, float]:
    """The peak memory of a few training steps."""
    rehearsal = _tiny_network(task)
    ones = torch.ones(2, rehearsal.max_length, dtype=torch.int64)
    _train(rehearsal, [Batch(item_ids=ones, targets=ones)], task)
    del rehearsal
    batches = _training_batches(task)
    before = _memory_before(task.device)
    _train(task.load_network(), batches, task)
    return {"train_peak_memory_mib": _peak_memory_mib(task.device, before)}


MEASUREMENTS = {"inference": _measure_inference, "training": _measure_training}


def _tiny_network(task: _Task) -> SequentialRecommender:
    """The smallest network of the same kind.

    Used once before memory is compared, it brings in the code and the buffers of the libraries: they cost
    more than a small network does, and would hide what makes one network differ from another.
    """
    described = read_json(task.network_dir / "network.json")
    full = Architecture.from_dict(described["architecture"])
    architecture = dataclasses.replace(full, hidden_size=full.num_heads, inner_size=1, num_layers=1)
    model = SequentialRecommender(architecture, num_items=task.config.top_k, max_length=2)
    return model.to(task.device).eval()


def _answer(
    model: SequentialRecommender, item_ids: Int64s, task: _Task, lengths: Int64s | None = None
) -> list[list[int]]:
    """The best items after each of the histories, int64 (B, N), which are full unless `lengths` are given."""
    if lengths is None:
        lengths = np.full(len(item_ids), item_ids.shape[1])
    with torch.inference_mode():
        histories = torch.from_numpy(item_ids).to(task.device)
        scores = model.scores(histories, torch.from_numpy(lengths).to(task.device))
        best: list[list[int]] = scores.topk(min(task.config.top_k, model.num_items)).indices.tolist()
    return best


def _training_batches(task: _Task) -> list[Batch]:
    described = read_json(task.network_dir / "network.json")
    batches = training_batches(
        task.data,
        described["max_length"],
        task.train_batch_size,
        form=training_form(Architecture.from_dict(described["architecture"])),
        seed=task.config.seed,
        epoch=1,
    )
    first = list(itertools.islice(batches, task.config.train_steps))
    if not first:
        raise ValueError(f"data set {task.data.name!r} has nothing to train on")
    return list(itertools.islice(itertools.cycle(first), task.config.train_steps))


def _train(model: SequentialRecommender, batches: list[Batch], task: _Task) -> None:
    model.train()
    optimizer = torch.optim.Adam(model.parameters())
    for batch in batches:
        loss = model.loss(move(batch, task.device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    _synchronise(task.device)


def _timed(task: _Task, work: Callable[[], object]) -> float:
    """Seconds that `work` takes, the device's share included."""
    _synchronise(task.device)
    start = time.perf_counter()
    work()
    _synchronise(task.device)
    return time.perf_counter() - start


def _is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def _synchronise(device: str) -> None:
    if _is_cuda(device):
        torch.cuda.synchronize(device)


def _memory_before(device: str) -> int:
    """Bytes held now; the peak is counted afresh from here."""
    gc.collect()
    if _is_cuda(device):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            # What was freed but still counts as resident would be used again without showing.
            libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    return psutil.Process().memory_info().rss


def _peak_memory_mib(device: str, before: int) -> float:
    """The most memory held since `_memory_before`, above what was held then, in MiB."""
    if _is_cuda(device):
        peak = torch.cuda.max_memory_allocated(device)
    elif sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="ascii")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        peak = int(line.split()[1]) * 1024
    else:
        import resource  # not on Windows, and its peak is that since the start

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak - before) / MIB


def _measure(name: str, folder: Path) -> None:
    """Take one measurement in a process that has done nothing but import."""
    task = _Task.read(folder)
    torch.set_num_threads(task.config.threads)
    write_json(folder / f"{name}.json", MEASUREMENTS[name](task))


def main(folder: Path) -> None:
    """Take all measurements of the request in `folder`, one after the other."""
    # Forking costs nothing and is safe here: nothing but imports has happened, no thread has started.
    start_method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(start_method)
    for name in MEASUREMENTS:
        process = context.Process(target=_measure, args=(name, folder))  # type: ignore[attr-defined]
        process.start()
        process.join()
        if process.exitcode < 0:
            sys.exit(
                f"the process measuring {name} was ended by signal {-process.exitcode}; 9 means no memory"
            )
        if process.exitcode:
            sys.exit(process.exitcode)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
