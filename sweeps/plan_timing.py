"""Times for --plan, taken where the sweep would do the work: here, or on nodes of a cluster."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayError

from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.evaluation.profile import ProfileConfig
from sweeps.cluster import Cluster, available_cpus, check_cluster, ray_cluster
from sweeps.config import SweepConfig
from sweeps.estimate import DataSize, EpochTimes, few_users, time_epochs, time_measuring
from sweeps.hardware import measuring_device
from sweeps.measuring import MeasuringPlace, reserved_node
from sweeps.nodes import check_nodes
from sweeps.presets import Preset
from sweeps.summary import counted

Result = TypeVar("Result")

_FREE_S = 120.0
"""Seconds within which a cluster must have room for a trial, for its steps to be timed."""


@dataclass(frozen=True, slots=True)
class Timed:
    """What a sweep would find, and how long its parts take there."""

    cluster: Cluster
    place: MeasuringPlace
    """Where networks are measured."""
    epochs: EpochTimes
    measure_s: float
    """Seconds to measure the largest network."""
    in_use: str = ""
    """What others use of the cluster now, such as `2 of 8 CPUs`; empty for nothing."""


def take_times(config: SweepConfig, preset: Preset, data: SplitData) -> Timed:
    """Time a few steps of each stage and the measuring of a network.

    See `sweeps.plan_text.plan` for errors.
    """
    part, whole = few_users(preset, data), DataSize.of(data, preset)
    with _resources(config) as (cluster, place):
        in_use = "" if config.ray_address == "local" else _in_use()
        steps = partial(
            time_epochs,
            part,
            whole,
            preset,
            device=cluster.device,
            threads=config.cpus_per_trial,
            warmup_threads=config.warmup_threads,
            memory_share=cluster.memory_share,
        )
        device = cluster.device if config.measure_on is None else measuring_device(config.measure_on)
        profile = ProfileConfig(threads=config.latency_threads, repeats=preset.latency_repeats)
        measuring = partial(time_measuring, part, whole.users, preset, profile, device=device)
        if config.ray_address == "local":
            epochs, measure_s = steps(), measuring()
        else:
            trial = {"num_cpus": cluster.resources["CPU"], "num_gpus": cluster.resources.get("GPU", 0.0)}
            epochs = _there(steps, trial, f"times a few steps on {cluster.device}")
            measure_s = _there(measuring, place.options, f"measures a network on {device}")
    return Timed(cluster, place, epochs, measure_s, in_use)


@contextmanager
def _resources(config: SweepConfig) -> Iterator[tuple[Cluster, MeasuringPlace]]:
    """What the sweep would find; the connection to a cluster lasts as long as the `with`."""
    if config.ray_address == "local":
        if config.measure_on is not None:
            reserved_node(config.measure_on, config.latency_threads, [])  # a Ray of the sweep's own has none
        cluster = check_cluster(
            config, [{"CPU": float(available_cpus()), "GPU": float(torch.cuda.device_count())}]
        )
        yield cluster, cluster.measuring_place(None, config.latency_threads)
        return
    with ray_cluster(config) as cluster:
        # Whether nodes see the output directory is asked when there is one.
        check_nodes(None, cluster.workers())
        yield cluster, cluster.measuring_place(config.measure_on, config.latency_threads)


def _there(work: Callable[[], Result], options: Mapping[str, Any], doing: str) -> Result:
    """What some work gives on a node of the cluster that has what it asks for.

    Args:
        work: what to do.
        options: what its Ray task asks for.
        doing: what is done, in words that follow `--plan`.

    Raises:
        InputError: no node has that free, or the work fails there.
    """
    where = f"--plan {doing} on a node of the cluster"
    # Ray itself would wait for ever, as for a sweep's trials.
    if not ray.wait([ray.remote(_begin).options(**options).remote()], timeout=_FREE_S)[0]:
        raise InputError(
            f"{where}, but within {_FREE_S:g} s none had {resources_text(options)} free (in use: "
            f"{_in_use()}); try again when there is room"
        )
    try:
        result: Result = ray.get(ray.remote(_call).options(max_retries=0, **options).remote(work))
    except RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"{where}, and there that failed ({lines[-1][:300]}); for the sweep it would too"
        ) from error
    return result


def _begin() -> None:
    """Nothing: that it runs shows that there is room."""


def _call(work: Callable[[], Result]) -> Result:
    return work()


def _in_use() -> str:
    """What is used of the cluster now, such as `2 of 8 CPUs and 0.5 of 2 GPUs`; empty for nothing."""
    there, free = ray.cluster_resources(), ray.available_resources()
    return " and ".join(
        f"{used:g} of {there[name]:g} {name}s"
        for name in ("CPU", "GPU")
        if (used := there.get(name, 0.0) - free.get(name, 0.0)) > 0
    )


def resources_text(options: Mapping[str, Any]) -> str:
    """CPUs and GPUs of a Ray task's options, in words such as `2 CPUs and 0.5 GPU`."""
    cpus, gpus = options["num_cpus"], options["num_gpus"]
    return counted(int(cpus), "CPU") + (f" and {gpus:g} GPU" if gpus else "")
