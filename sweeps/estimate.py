"""How long a sweep may take, and what it holds of a cluster meanwhile: for --plan."""

import dataclasses
import heapq
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from easrec.data.batches import num_training_batches
from easrec.data.sequences import SplitData, Targets
from easrec.errors import InputError
from easrec.nas.resources import layer_flops
from easrec.nas.search import search, warm_up
from easrec.retrain import retrain
from easrec.training import training_form
from sweeps.gpu_share import limit_memory
from sweeps.presets import Preset

_TIMED_STEPS = 3


@dataclass(frozen=True, slots=True)
class EpochTimes:
    """Seconds of an epoch of each stage, scaled up from a few steps."""

    warmup_s: float
    search_s: float
    retrain_s: float
    """Of the largest network of the space."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a sweep does many times, each time as long and holding as much."""

    name: str
    count: int
    seconds: float
    """Of one."""
    resources: Mapping[str, float]
    """What one holds, by Ray's names: `CPU`, `GPU`."""

    def hours(self, resource: str) -> float:
        """Hours of all of them, times what each holds of a resource."""
        return self.count * self.seconds * self.resources.get(resource, 0.0) / 3600


@dataclass(frozen=True, slots=True)
class Estimate:
    """A sweep before it is run."""

    stages: tuple[Stage, ...]
    wall_s: float
    retrain_epochs: int
    """Epochs that a retraining is taken to last."""

    def hours(self, resource: str) -> float:
        """What is held of a resource, in hours."""
        return sum(stage.hours(resource) for stage in self.stages)


def estimate(
    preset: Preset,
    times: EpochTimes,
    *,
    seeds: int,
    slots: int,
    warmup_slots: int,
    trial_resources: Mapping[str, float],
    warmup_resources: Mapping[str, float],
) -> Estimate:
    """Time and resources of a sweep in which every lambda derives an architecture of its own.

    No search or retraining is stopped early, but for a retraining's patience: it lasts at most four times as
    many epochs. What is measured at the end, seconds for each network, is left out.

    Args:
        preset: see `sweeps.plan.preset_of`.
        times: of an epoch.
        seeds: how many.
        slots: trials that run at once, at least 1.
        warmup_slots: warm-ups that run at once, at least 1.
        trial_resources: what a trial holds, by Ray's names.
        warmup_resources: what a warm-up holds.
    """
    retrain_epochs = min(preset.retrain.max_epochs, 4 * preset.retrain.patience)
    num_trials = seeds * len(preset.tradeoffs)
    space = preset.space
    num_retrainings = seeds * min(len(preset.tradeoffs), len(space) * space.num_layers)
    stages = (
        Stage("warm-ups", seeds, preset.search.warmup_epochs * times.warmup_s, warmup_resources),
        Stage("searches", num_trials, preset.search.search_epochs * times.search_s, trial_resources),
        Stage("retrainings", num_retrainings, retrain_epochs * times.retrain_s, trial_resources),
    )
    warmups, searches, retrainings = stages
    # A trial is a search and a retraining, unless another one has done that.
    trials = [searches.seconds + (n < num_retrainings) * retrainings.seconds for n in range(num_trials)]
    wall_s = wall_time_s([warmups.seconds] * seeds, warmup_slots) + wall_time_s(trials, slots)
    return Estimate(stages, wall_s, retrain_epochs)


def wall_time_s(durations_s: Sequence[float], slots: int) -> float:
    """When the last of some tasks ends; they are started in their order, at most `slots` at once."""
    ends = [0.0] * slots
    for duration_s in durations_s:
        heapq.heapreplace(ends, ends[0] + duration_s)
    return max(ends)


def steps_per_epoch(preset: Preset, data: SplitData) -> int:
    """Batches of a search's first epoch.

    Raises:
        InputError: nobody's history is long enough to train on.
    """
    steps = num_training_batches(
        data,
        preset.search.max_length,
        preset.search.batch_size,
        form=training_form(preset.space),
        seed=preset.search.seed,
        epoch=1,
    )
    if steps == 0:
        raise InputError(
            f"data set {data.name!r} has no training target: nobody has two interactions in training; give a "
            "longer log"
        )
    return steps


def few_users(preset: Preset, data: SplitData) -> SplitData:
    """The first users of some data, as many as a few training steps need.

    Raises:
        InputError: see `steps_per_epoch`.
    """
    share = min(1.0, _TIMED_STEPS / steps_per_epoch(preset, data))
    return _first_users(data, max(round(share * data.num_users), _fewest_users(data)))


def time_epochs(
    part: SplitData,
    num_users: int,
    preset: Preset,
    *,
    device: str,
    threads: int,
    warmup_threads: int,
    memory_share: float | None,
) -> EpochTimes:
    """Run a few steps of each stage, and say how long epochs of all users would take.

    Args:
        part: see `few_users`.
        num_users: of all the data.
        preset: see `sweeps.plan.preset_of`.
        device: `cpu` or `cuda`.
        threads: CPU threads of a trial.
        warmup_threads: of a warm-up.
        memory_share: see `sweeps.gpu_share`.
    """
    limit_memory(device, memory_share)
    scale = num_users / part.num_users
    search_config = dataclasses.replace(preset.search, warmup_epochs=1, search_epochs=1)
    retrain_config = dataclasses.replace(preset.retrain, max_epochs=1)
    before = torch.get_num_threads()
    # So few users make so few steps that the search would warn of it.
    search_logger = logging.getLogger("easrec.nas")
    level = search_logger.level
    search_logger.setLevel(logging.ERROR)
    largest = max(
        (preset.space.architecture(k, preset.space.num_layers) for k in range(len(preset.space))),
        key=lambda architecture: layer_flops(architecture, preset.search.max_length),
    )
    try:
        torch.set_num_threads(warmup_threads)
        warm = warm_up(part, preset.space, search_config, device=device)
        torch.set_num_threads(threads)
        searched = search(part, preset.space, search_config, warm=warm, device=device)
        retrained = retrain(largest, part, retrain_config, device=device)
    finally:
        torch.set_num_threads(before)
        search_logger.setLevel(level)
    return EpochTimes(
        warmup_s=scale * warm.epochs[0].duration_s,
        search_s=scale * searched.search_s,
        retrain_s=scale * retrained.retrain_s,
    )


def _fewest_users(data: SplitData) -> int:
    """How many of the first users there must be for one to train on and one to ask at validation."""
    trained = np.flatnonzero(data.train_ends - data.starts > 1)
    return int(max(trained[0], data.valid.rows[0])) + 1


def _first_users(data: SplitData, num_users: int) -> SplitData:
    """The same data with the first rows only; all items stay."""
    end = data.starts[num_users] if num_users < data.num_users else len(data.items)

    def first(targets: Targets) -> Targets:
        kept = targets.rows < num_users
        return Targets(targets.rows[kept], targets.positions[kept])

    return dataclasses.replace(
        data,
        items=data.items[:end],
        starts=data.starts[:num_users],
        train_ends=data.train_ends[:num_users],
        valid=first(data.valid),
        test=first(data.test),
    )
