"""Ray, quietly: one of our own on this machine, or the cluster that the user names."""

import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read by OpenMP when torch is first imported, so by Ray's processes. Threads that wait for each other must
# not spin: beside one other busy process, a step on two threads of two cores takes ten times as long if they
# do.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read by Ray when it is imported or started.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 leaves training to what others leave over
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray takes 127.0.0.1 for the address of this machine in its network: a Ray of our own would listen there, and
# a cluster that listens on the loopback alone would never be found. This is what makes it take addresses as
# they are; clusters of many nodes are joined all the same, whatever its name says.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the old output is silent at verbose=0, the new is not
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is ours
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # results lie in the store

import ray
from ray.exceptions import RayError

from easrec.errors import InputError
from sweeps.config import SweepConfig
from sweeps.gpu_share import memory_share
from sweeps.measuring import RESOURCE, MeasuringPlace, reserved_node

_ANSWER_S = 5.0
"""Seconds within which a cluster's address must answer."""

_TOKEN = secrets.token_hex(32)
"""Keeps a Ray of our own to this process, which reads it once. Were there none, Ray would write one into the
user's home directory, and that file then locks them out of clusters that were started without it."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a sweep may use."""

    cpus: int
    """CPUs of the node that has most."""
    gpus: float
    """GPUs of the node that has most."""
    device: str
    """Where networks are trained: `cpu` or `cuda`."""
    resources: dict[str, float]
    """What one trial asks Ray for."""
    slots: int
    """Trials that run at once."""
    warmup_slots: int
    """Warm-ups that run at once."""

    @property
    def memory_share(self) -> float | None:
        """The part of a GPU's memory that a trial or a warm-up may allocate; None where it shares none."""
        return memory_share(self.resources.get("GPU", 0.0))

    def workers(self) -> list[dict[str, Any]]:
        """The nodes that may work for the sweep, as `ray.nodes` has them."""
        return [
            node
            for node in alive_nodes()
            if _room(node["Resources"], self.resources) or node["Resources"].get(RESOURCE, 0) > 0
        ]

    def measuring_place(self, measure_on: str | None, threads: int) -> MeasuringPlace:
        """What a measurement asks Ray for: a trial's resources, or a node; see `reserved_node` for errors."""
        if measure_on is not None:
            return reserved_node(measure_on, threads, alive_nodes())
        return MeasuringPlace(
            {"num_cpus": self.resources["CPU"], "num_gpus": self.resources.get("GPU", 0.0)}, ""
        )

    def warmup_options(self, threads: int) -> dict[str, Any]:
        """Options of a warm-up's Ray task, which uses `threads` threads."""
        request = warmup_request(threads, self.cpus, self.resources)
        return {"num_cpus": request["CPU"], "num_gpus": request.get("GPU", 0.0)}


def available_cpus() -> int:
    """CPU cores that this process may use, by its affinity and by its container's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota_file = Path("/sys/fs/cgroup/cpu.max")
    if quota_file.is_file():
        quota, period = quota_file.read_text().split()
        if quota != "max":
            cpus = min(cpus, max(1, int(quota) // int(period)))
    return cpus


@contextmanager
def ray_cluster(config: SweepConfig) -> Iterator[Cluster]:
    """Connect to Ray for the length of a `with`; checks that the cluster can run the trials.

    Raises:
        InputError: the cluster cannot be reached, or a trial asks for more than it has.
    """
    if config.ray_address == "local":
        # Ray takes pickled tasks at its ports: they must ask for the token, since other users of this machine
        # reach them, also where the user's shell turned that off for clusters of their own.
        before = {name: os.environ.pop(name, None) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        os.environ["RAY_AUTH_TOKEN"] = _TOKEN
        arguments: dict[str, Any] = {
            "num_cpus": available_cpus(),
            "include_dashboard": False,
        }
    else:
        before = {}
        arguments = {"runtime_env": {"env_vars": {"OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"]}}}
        _check_answers(config.ray_address)
    # Ray announces its token, its address and more as warnings.
    logging.getLogger("ray").setLevel(logging.ERROR)
    # It prints a traceback for each trial that breaks off, which `sweeps.tuner` says in a sentence.
    logging.getLogger("ray.tune.execution.tune_controller").setLevel(logging.CRITICAL)
    try:
        ray.init(
            address=config.ray_address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **arguments,
        )
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"no Ray cluster can be used at --ray-address {config.ray_address} ({reason}); check the "
            "address, that both sides have the same Ray and Python, and RAY_AUTH_MODE"
        ) from error
    try:
        cluster = check_cluster(config, [node["Resources"] for node in alive_nodes()])
        cluster.measuring_place(config.measure_on, config.latency_threads)
        yield cluster
    finally:
        ray.shutdown()
        for name, value in before.items():  # Ray sets the mode by itself when it starts
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def alive_nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster that this process is connected to."""
    return [node for node in ray.nodes() if node["Alive"]]


def _check_answers(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try for many minutes."""
    named = f"--ray-address {address}"
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
        if not address:
            return  # Ray looks for one on this machine, and says at once if there is none
        named = f"RAY_ADDRESS={address}, which --ray-address auto follows"
        host, _, port = address.rpartition(":")
        if "://" in address or not host or not port.isdigit():
            raise InputError(f"{named}, is not of the form HOST:PORT; set it so, or name the cluster")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"nothing answers at {named} ({error}); check the address and that Ray runs there"
        ) from error


def check_cluster(config: SweepConfig, nodes: Sequence[Mapping[str, float]]) -> Cluster:
    """What a sweep may use of a cluster whose nodes have these resources; see `ray_cluster` for errors.

    A trial runs on one node: what all have together would let through a request that waits for ever.
    """
    cpus = max((int(node.get("CPU", 0)) for node in nodes), default=0)
    gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    device = config.device
    if device == "auto":
        device = "cuda" if gpus > 0 else "cpu"
    if config.cpus_per_trial > cpus:
        raise InputError(
            f"--cpus-per-trial {config.cpus_per_trial} is more than the {cpus} CPUs that Ray has on a node; "
            "ask for fewer"
        )
    request = {"CPU": float(config.cpus_per_trial)}
    if device == "cuda":
        if config.gpus_per_trial > gpus:
            raise InputError(
                f"--gpus-per-trial {config.gpus_per_trial:g} is more than the {gpus:g} GPUs that Ray has on "
                "a node; ask for fewer, or take --device cpu"
            )
        request["GPU"] = config.gpus_per_trial
    slots = sum(_room(node, request) for node in nodes)
    if slots == 0:
        raise InputError(
            f"no node of the cluster has both {config.cpus_per_trial} CPUs and "
            f"{config.gpus_per_trial:g} GPUs for a trial; ask for fewer"
        )
    warmup = warmup_request(config.warmup_threads, cpus, request)
    return Cluster(
        cpus=cpus,
        gpus=gpus,
        device=device,
        resources=request,
        slots=slots,
        warmup_slots=max(sum(_room(node, warmup) for node in nodes), 1),
    )


def warmup_request(threads: int, cpus: int, trial: Mapping[str, float]) -> dict[str, float]:
    """What a warm-up with so many threads asks Ray for, on nodes of at most so many CPUs."""
    # More threads than CPUs would never be scheduled; the number of threads stays what it is.
    request = {"CPU": float(min(threads, cpus))}
    if "GPU" in trial:
        request["GPU"] = min(trial["GPU"], 1.0)
    return request


def _room(node: Mapping[str, float], request: Mapping[str, float]) -> int:
    """How many such requests a node has room for."""
    rooms = []
    for name, amount in request.items():
        there = node.get(name, 0.0)
        # A fraction of a GPU is one of the same GPU.
        shared = name == "GPU" and amount < 1
        rooms.append(int(there) * int(1 / amount) if shared else int(there / amount))
    return min(rooms)
