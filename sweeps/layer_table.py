"""What a layer of each candidate takes, measured once for all searches of a sweep that trade latency."""

import ray
import torch
from ray.exceptions import RayError

from sweeps.gpu_share import limit_memory
from sweeps.measuring import MeasuringPlace
from sweeps.store import Store
from sweeps.trial import TrialConfig, latency_stage


def measure_layers(trial: TrialConfig, store: Store, place: MeasuringPlace) -> None:
    """Measure as a Ray task; nothing else of the sweep should run.

    Args:
        trial: any with the space, the length and the threads.
        store: where the table goes.
        place: where.

    Raises:
        RuntimeError: it could not be measured.
    """
    task = ray.remote(_measure).options(**place.options)
    try:
        ray.get(task.remote(trial, store))
    except RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RuntimeError(lines[-1]) from error


def _measure(trial: TrialConfig, store: Store) -> None:
    torch.set_num_threads(trial.threads)
    limit_memory(trial.measure_device, None)
    latency_stage(trial, store)
