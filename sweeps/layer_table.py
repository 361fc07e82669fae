"""What a layer of each candidate takes, measured once for all searches of a sweep that trade latency."""

import ray
import torch
from ray.exceptions import RayError

from sweeps.cluster import Cluster
from sweeps.store import Store
from sweeps.trial import TrialConfig, latency_stage


def measure_layers(trial: TrialConfig, store: Store, cluster: Cluster) -> None:
    """Measure as a Ray task with a trial's resources; nothing else should run.

    Args:
        trial: any with the space, the length and the threads.
        store: where the table goes.
        cluster: what a trial may use.

    Raises:
        RuntimeError: it could not be measured.
    """
    task = ray.remote(_measure).options(
        num_cpus=cluster.resources["CPU"], num_gpus=cluster.resources.get("GPU", 0.0)
    )
    try:
        ray.get(task.remote(trial, store))
    except RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RuntimeError(lines[-1]) from error


def _measure(trial: TrialConfig, store: Store) -> None:
    torch.set_num_threads(trial.threads)
    latency_stage(trial, store)
