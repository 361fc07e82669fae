"""What a network costs on this machine: latency, time for all users, memory.

Everything is measured in fresh processes, see `easrec.evaluation.measure`; only file paths and numbers pass
between them and the caller.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from easrec.data.sequences import SplitData
from easrec.files import read_json, write_json

REQUEST, DATA = "request.json", "data.npz"
MEASUREMENTS = ("inference", "training")


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
    """Median time of a request by torch, in milliseconds: one user, N = `max_length` items, ids in to top-10
    out."""
    latency_ms_p95: float
    """Time within which 95 % of these requests are answered, in milliseconds."""
    served_ms_p50: float
    """Median time of a request as `easrec.serving` answers it, in milliseconds: from the user's state where
    the network has a recurrent form, from the history elsewhere; on a CPU by ONNX Runtime."""
    served_ms_p95: float
    """Time within which 95 % of these are answered, in milliseconds."""
    served_history_ms_p50: float
    """Median time of a request that is served from the history, in milliseconds."""
    update_ms_p50: float
    """Median time in which one more item enters a user's state, in milliseconds; 0 where there are none."""
    inference_s: float
    """Time for all test users, in batches, ids in to top-10 out, in seconds."""
    peak_memory_mib: float
    """Peak memory of loading the network, one request and one batch of users by torch, above what the process
    held before: resident memory on a CPU, allocated memory on a GPU; in MiB."""
    train_peak_memory_mib: float
    """The same of loading the network and a few training steps with Adam, in MiB."""
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
    """Measure a saved network. Nothing else should run on the machine meanwhile.

    Args:
        network_dir: what `save_network` wrote.
        data: its test questions are answered, its training histories trained on.
        config: how to measure.
        device: where the network runs.
        train_batch_size: sequences in a batch of training.

    Raises:
        RuntimeError: measuring failed; the message of the process that failed is in this one's.
    """
    if train_batch_size < 1:
        raise ValueError(f"train_batch_size must be at least 1, got {train_batch_size}")
    with tempfile.TemporaryDirectory(prefix="easrec-profile-") as name:
        folder = Path(name)
        arrays, rest = data.to_arrays()
        np.savez(folder / DATA, allow_pickle=False, **arrays)
        request = {
            "network_dir": str(Path(network_dir).absolute()),
            "data": rest,
            "config": dataclasses.asdict(config),
            "device": device,
            "train_batch_size": train_batch_size,
        }
        write_json(folder / REQUEST, request)
        run = subprocess.run(
            [sys.executable, "-m", "easrec.evaluation.measure", str(folder), str(os.getpid())],
            env=_environment(config.threads),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        if run.returncode:
            trace = run.stderr.strip() or f"its process ended with status {run.returncode}"
            message = trace.splitlines()[-1]
            raise RuntimeError(f"measuring the network in {network_dir} failed: {message}\n\n{trace}")
        inference, training = (read_json(folder / f"{measurement}.json") for measurement in MEASUREMENTS)
    return Profile(**inference, **training, device=device)


def _environment(threads: int) -> dict[str, str]:
    """The caller's environment, with this package to be found and the number of threads asked for."""
    package_root = str(Path(__file__).parents[2])
    paths = filter(None, [package_root, os.environ.get("PYTHONPATH")])
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # numpy's own: it measures nothing, and its threads would start on import, before the fork.
        "OPENBLAS_NUM_THREADS": "1",
    }
