"""What --plan prints: candidates, trials, and what they may take of the machine or the cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.nas.resources import layer_flops
from sweeps.cluster import Cluster, available_cpus, check_cluster, ray_cluster, warmup_request
from sweeps.config import SweepConfig
from sweeps.estimate import EpochTimes, Estimate, estimate, few_users, steps_per_epoch, time_epochs
from sweeps.nodes import check_nodes
from sweeps.presets import Preset
from sweeps.reporter import duration_text
from sweeps.summary import counted


def plan(config: SweepConfig, preset: Preset, data: SplitData, *, described: str) -> str:
    """The text of --plan; takes some seconds, since a few real steps are timed.

    Nothing is written. With --ray-address the cluster is joined, and the steps are timed where a trial would
    run; without it no Ray is started.

    Args:
        config: what the user asked for.
        preset: see `sweeps.plan.preset_of`.
        data: what will be trained on.
        described: what the data are, see `SweepData`.

    Raises:
        InputError: as the sweep itself would: the cluster is out of reach or has not what is asked for.
    """
    part = few_users(preset, data)
    with _resources(config) as cluster:
        times = _timed(config, preset, part, data.num_users, cluster)
    return plan_text(config, preset, data, cluster, times, described=described)


@contextmanager
def _resources(config: SweepConfig) -> Iterator[Cluster]:
    """What the sweep would find; the connection to a cluster lasts as long as the `with`."""
    if config.ray_address == "local":
        yield check_cluster(
            config, [{"CPU": float(available_cpus()), "GPU": float(torch.cuda.device_count())}]
        )
        return
    with ray_cluster(config) as cluster:
        # Whether nodes see the output directory is asked when there is one.
        check_nodes(None, cluster.workers())
        yield cluster


def _timed(
    config: SweepConfig, preset: Preset, part: SplitData, num_users: int, cluster: Cluster
) -> EpochTimes:
    arguments: dict[str, Any] = {
        "device": cluster.device,
        "threads": config.cpus_per_trial,
        "warmup_threads": config.warmup_threads,
        "memory_share": cluster.memory_share,
    }
    if config.ray_address == "local":
        return time_epochs(part, num_users, preset, **arguments)
    task = ray.remote(time_epochs).options(
        num_cpus=cluster.resources["CPU"], num_gpus=cluster.resources.get("GPU", 0.0), max_retries=0
    )
    try:
        times: EpochTimes = ray.get(task.remote(part, num_users, preset, **arguments))
    except RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"--plan times a few steps on {cluster.device} on a node of the cluster, and there they failed "
            f"({lines[-1][:300]}); the sweep would too"
        ) from error
    return times


def plan_text(
    config: SweepConfig,
    preset: Preset,
    data: SplitData,
    cluster: Cluster,
    times: EpochTimes,
    *,
    described: str,
) -> str:
    """The text itself, from what `cluster` has and how long epochs take; see `plan`."""
    estimated = estimate(
        preset,
        times,
        seeds=config.seeds,
        slots=cluster.slots,
        warmup_slots=cluster.warmup_slots,
        trial_resources=cluster.resources,
        warmup_resources=warmup_request(config.warmup_threads, cluster.cpus, cluster.resources),
    )
    return "\n".join(
        [
            described,
            "",
            *_candidates(preset),
            "",
            *_trials(config, preset),
            "",
            *_estimate(config, preset, data, cluster, times, estimated),
        ]
    )


def _candidates(preset: Preset) -> Iterator[str]:
    space, max_length = preset.space, preset.search.max_length
    attention = space.attention.replace("_", ", ")
    yield (
        f"candidates ({len(space)}), each with 1 to {space.num_layers} layers, {space.weights} weights, "
        f"{counted(space.num_heads, 'head')} of {attention} attention; FLOPs of one layer over "
        f"{max_length} positions:"
    )
    for candidate in range(len(space)):
        architecture = space.architecture(candidate, 1)
        yield (
            f"  {candidate}: hidden {architecture.hidden_size:4d}  inner {architecture.inner_size:5d}  "
            f"{layer_flops(architecture, max_length):13,d} FLOPs per layer"
        )
    if (bound := preset.search.max_flops) is not None:
        yield f"  derived networks need at most {bound:,d} FLOPs"


def _trials(config: SweepConfig, preset: Preset) -> Iterator[str]:
    tradeoffs, seeds = preset.tradeoffs, config.seeds
    seed_text = f"seed {config.seed}" if seeds == 1 else f"seeds {config.seed} to {config.seed + seeds - 1}"
    yield (
        f"trials ({len(tradeoffs) * seeds}): lambda {', '.join(f'{t:g}' for t in sorted(tradeoffs))}; "
        f"{seed_text}"
    )
    yield (
        f"each: warm-up of {counted(preset.search.warmup_epochs, 'epoch')} (once per seed), search of at "
        f"most {preset.search.search_epochs}, retraining of at most {preset.retrain.max_epochs} epochs"
    )


def _estimate(
    config: SweepConfig,
    preset: Preset,
    data: SplitData,
    cluster: Cluster,
    times: EpochTimes,
    estimated: Estimate,
) -> Iterator[str]:
    gpus = cluster.resources.get("GPU", 0.0)
    where = "this machine" if config.ray_address == "local" else f"the cluster at {config.ray_address}"
    yield (
        f"an epoch on {cluster.device}: {counted(steps_per_epoch(preset, data), 'step')}; about "
        f"{times.warmup_s:.1f} s in the warm-up, {times.search_s:.1f} s in the search, {times.retrain_s:.1f} "
        "s in the retraining of the largest network (from a few steps timed now)"
    )
    each = counted(int(cluster.resources["CPU"]), "CPU") + (f" and {gpus:g} GPU" if gpus else "")
    yield f"on {where}: {counted(cluster.slots, 'trial')} at once, each with {each}"
    for stage in estimated.stages:
        yield (
            f"  {stage.name}: {stage.count} of about {duration_text(stage.seconds)}, "
            f"{_hours(stage.hours('CPU'), stage.hours('GPU'), gpu=bool(gpus))}"
        )
    yield (
        f"estimated time: about {duration_text(estimated.wall_s)} and "
        f"{_hours(estimated.hours('CPU'), estimated.hours('GPU'), gpu=bool(gpus))}, if every lambda gives "
        f"its own architecture and a retraining takes {estimated.retrain_epochs} epochs; the measuring at "
        "the end, seconds for each network, is not in it"
    )


def _hours(cpu: float, gpu_hours: float, *, gpu: bool) -> str:
    return f"{cpu:.2f} CPU-hours" + (f" and {gpu_hours:.2f} GPU-hours" if gpu else "")
