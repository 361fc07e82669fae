"""What --plan prints: candidates, trials, and what they may take of the machine or the cluster."""

from collections.abc import Iterator

from easrec.data.sequences import SplitData
from easrec.nas.resources import layer_flops
from sweeps.cluster import warmup_request
from sweeps.config import SweepConfig
from sweeps.estimate import Estimate, estimate, steps_per_epoch
from sweeps.plan_timing import Timed, resources_text, take_times
from sweeps.presets import Preset
from sweeps.reporter import duration_text
from sweeps.summary import counted


def plan(config: SweepConfig, preset: Preset, data: SplitData, *, described: str) -> str:
    """The text of --plan; takes some seconds, since a few real steps are timed and one network is measured.

    Nothing is written. With --ray-address the cluster is joined, and all is timed where the sweep would do
    it; without it no Ray is started.

    Args:
        config: what the user asked for.
        preset: see `sweeps.plan.preset_of`.
        data: what will be trained on.
        described: what the data are, see `SweepData`.

    Raises:
        InputError: as the sweep itself would: the cluster is out of reach or has not what is asked for. Or
            the cluster has no room at the moment for what is timed.
    """
    return plan_text(config, preset, data, take_times(config, preset, data), described=described)


def plan_text(
    config: SweepConfig,
    preset: Preset,
    data: SplitData,
    timed: Timed,
    *,
    described: str,
) -> str:
    """The text itself, from what was timed; see `plan`."""
    cluster, measuring = timed.cluster, timed.place.options
    estimated = estimate(
        preset,
        timed.epochs,
        seeds=config.seeds,
        slots=cluster.slots,
        warmup_slots=cluster.warmup_slots,
        trial_resources=cluster.resources,
        warmup_resources=warmup_request(config.warmup_threads, cluster.cpus, cluster.resources),
        measure_s=timed.measure_s,
        measure_resources={"CPU": measuring["num_cpus"], "GPU": measuring["num_gpus"]},
        independent=config.independent,
    )
    return "\n".join(
        [
            described,
            "",
            *_candidates(preset),
            "",
            *_trials(config, preset),
            "",
            *_estimate(config, preset, data, timed, estimated),
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
    timed: Timed,
    estimated: Estimate,
) -> Iterator[str]:
    cluster, times = timed.cluster, timed.epochs
    gpu = estimated.hours("GPU") > 0
    where = "this machine" if config.ray_address == "local" else f"the cluster at {config.ray_address}"
    yield (
        f"an epoch on {cluster.device}: {counted(steps_per_epoch(preset, data), 'step')}; about "
        f"{times.warmup_s:.1f} s in the warm-up, {times.search_s:.1f} s in the search, {times.retrain_s:.1f} "
        "s in the retraining of the largest network (from a few steps timed now)"
    )
    trial = cluster.resources
    each = resources_text({"num_cpus": trial["CPU"], "num_gpus": trial.get("GPU", 0.0)})
    yield f"on {where}: {counted(cluster.slots, 'trial')} at once, each with {each}"
    if timed.in_use:
        yield f"  in use by others now: {timed.in_use}; the estimate takes all for this sweep"
    for stage in estimated.stages:
        alone = f"{timed.place.described}, one at a time" if stage.name == "measurements" else ""
        yield (
            f"  {stage.name}: {stage.count} of about {duration_text(stage.seconds)}{alone}, "
            f"{_hours(stage.hours('CPU'), stage.hours('GPU'), gpu=gpu)}"
        )
    yield (
        f"estimated time: about {duration_text(estimated.wall_s)} and "
        f"{_hours(estimated.hours('CPU'), estimated.hours('GPU'), gpu=gpu)}, if every lambda gives "
        f"its own architecture and a retraining takes {estimated.retrain_epochs} epochs"
    )
    if config.halve_after is not None:
        yield (
            f"--halve-after {config.halve_after}: retrainings that are stopped make it less; how many will "
            "be is not known beforehand"
        )


def _hours(cpu: float, gpu_hours: float, *, gpu: bool) -> str:
    return f"{cpu:.2f} CPU-hours" + (f" and {gpu_hours:.2f} GPU-hours" if gpu else "")
