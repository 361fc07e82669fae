"""How long a sweep may take, and what it holds of a cluster meanwhile: for --plan."""

import bisect
import dataclasses
import heapq
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from easrec.data.batches import num_training_batches
from easrec.data.sequences import SplitData, Targets
from easrec.errors import InputError
from easrec.evaluation.profile import ProfileConfig, profile_network
from easrec.models.architecture import Architecture
from easrec.models.saving import save_network
from easrec.models.transformer import SequentialRecommender
from easrec.nas.resources import layer_flops
from easrec.nas.search import search, warm_up
from easrec.retrain import retrain
from easrec.training import EpochReport, training_form
from sweeps.gpu_share import limit_memory
from sweeps.presets import Preset

_TIMED_STEPS = (4, 16)
"""Of a search. What an epoch takes besides its steps counts less the more there are: the second number is
timed where the first is quick."""
_QUICK_S = 3.0
"""Seconds that quick steps take at most, those of all stages together."""
_TIMED_EPOCHS = 2
"""Of so few steps. The last counts: the first pays for what is done once, such as loading kernels and
compiling."""


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
    measure_s: float,
    measure_resources: Mapping[str, float],
    independent: bool = False,
) -> Estimate:
    """Time and resources of a sweep in which every trial derives an architecture of its own.

    There are no more of them than the space has. No search or retraining is stopped early, but for a
    retraining's patience: it lasts at most four times as many epochs. Architectures are measured at the end,
    one at a time.

    Args:
        preset: see `sweeps.plan.preset_of`.
        times: of an epoch.
        seeds: how many.
        slots: trials that run at once, at least 1.
        warmup_slots: warm-ups that run at once, at least 1.
        trial_resources: what a trial holds, by Ray's names.
        warmup_resources: what a warm-up holds.
        measure_s: seconds to measure an architecture.
        measure_resources: what that holds.
        independent: whether trials share neither warm-ups nor retrainings.
    """
    retrain_epochs = min(preset.retrain.max_epochs, 4 * preset.retrain.patience)
    num_trials = seeds * len(preset.tradeoffs)
    space = preset.space
    num_architectures = len(space) * space.num_layers
    num_warmups = num_trials if independent else seeds
    num_retrainings = num_trials if independent else seeds * min(len(preset.tradeoffs), num_architectures)
    stages = (
        Stage("warm-ups", num_warmups, preset.search.warmup_epochs * times.warmup_s, warmup_resources),
        Stage("searches", num_trials, preset.search.search_epochs * times.search_s, trial_resources),
        Stage("retrainings", num_retrainings, retrain_epochs * times.retrain_s, trial_resources),
        Stage("measurements", min(num_trials, num_architectures), measure_s, measure_resources),
    )
    warmups, searches, retrainings, measurements = stages
    # A trial is a search and a retraining, unless another one has done that.
    trials = [searches.seconds + (n < num_retrainings) * retrainings.seconds for n in range(num_trials)]
    # All trials wait for the last warm-up, and the measuring for the last trial.
    wall_s = (
        wall_time_s([warmups.seconds] * num_warmups, warmup_slots)
        + wall_time_s(trials, slots)
        + measurements.count * measurements.seconds
    )
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


def few_users(preset: Preset, data: SplitData, steps: int = _TIMED_STEPS[-1]) -> SplitData:
    """The first users of some data, as many as fill the batches of a few training steps.

    Raises:
        InputError: see `steps_per_epoch`.
    """
    steps_per_epoch(preset, data)

    def sequences(num_users: int) -> int:
        return DataSize.of(_first_users(data, num_users), preset).sequences

    wanted = steps * preset.search.batch_size
    # A batch that is not full takes longer than its share.
    most = bisect.bisect_right(range(1, data.num_users + 1), wanted, key=sequences)
    return _first_users(data, max(most, _fewest_users(data)))


@dataclass(frozen=True, slots=True)
class DataSize:
    """What the length of an epoch depends on."""

    sequences: int
    """That are trained on in an epoch."""
    users: int

    @classmethod
    def of(cls, data: SplitData, preset: Preset) -> "DataSize":
        """That of some data, with the preset's length of a sequence."""
        sequences = num_training_batches(
            data,
            preset.search.max_length,
            1,
            form=training_form(preset.space),
            seed=preset.search.seed,
            epoch=1,
        )
        return cls(sequences, data.num_users)


def time_epochs(
    part: SplitData,
    whole: DataSize,
    preset: Preset,
    *,
    device: str,
    threads: int,
    warmup_threads: int,
    memory_share: float | None,
) -> EpochTimes:
    """Run a few steps of each stage, and say how long epochs of all the data would take.

    Args:
        part: see `few_users`.
        whole: the size of all the data.
        preset: see `sweeps.plan.preset_of`.
        device: `cpu` or `cuda`.
        threads: CPU threads of a trial.
        warmup_threads: of a warm-up.
        memory_share: see `sweeps.gpu_share`.
    """
    limit_memory(device, memory_share)
    for steps in _TIMED_STEPS:
        fewer = few_users(preset, part, steps)
        reports = _last_epochs(fewer, preset, device=device, threads=threads, warmup_threads=warmup_threads)
        if sum(report.duration_s for report in reports) > _QUICK_S:
            break
    size = DataSize.of(fewer, preset)
    warmup_s, search_s, retrain_s = (epoch_s(report, size, whole) for report in reports)
    return EpochTimes(warmup_s=warmup_s, search_s=search_s, retrain_s=retrain_s)


def _last_epochs(
    part: SplitData, preset: Preset, *, device: str, threads: int, warmup_threads: int
) -> tuple[EpochReport, EpochReport, EpochReport]:
    """The last epoch of a short warm-up, of a search and of a retraining of the largest network."""
    search_config = dataclasses.replace(
        preset.search, warmup_epochs=_TIMED_EPOCHS, search_epochs=_TIMED_EPOCHS
    )
    retrain_config = dataclasses.replace(preset.retrain, max_epochs=_TIMED_EPOCHS)
    before = torch.get_num_threads()
    # So few users make so few steps that the search would warn of it.
    search_logger = logging.getLogger("easrec.nas")
    level = search_logger.level
    search_logger.setLevel(logging.ERROR)
    try:
        torch.set_num_threads(warmup_threads)
        warm = warm_up(part, preset.space, search_config, device=device)
        torch.set_num_threads(threads)
        searched = search(part, preset.space, search_config, warm=warm, device=device)
        retrained = retrain(_largest(preset), part, retrain_config, device=device)
    finally:
        torch.set_num_threads(before)
        search_logger.setLevel(level)
    return warm.epochs[-1], searched.epochs[-1], retrained.epochs[-1]


def epoch_s(report: EpochReport, part: DataSize, whole: DataSize) -> float:
    """Seconds of an epoch of all the data, from that of a part.

    Training takes as long as there are sequences, what follows it as long as there are users.
    """
    training_s = min(part.sequences / report.sequences_per_s, report.duration_s)
    rest_s = report.duration_s - training_s
    return training_s * whole.sequences / part.sequences + rest_s * whole.users / part.users


def time_measuring(
    part: SplitData, num_users: int, preset: Preset, config: ProfileConfig, *, device: str
) -> float:
    """Seconds to measure the largest network of the space, as a sweep does at its end.

    Args:
        part: see `few_users`.
        num_users: of all the data, who are all answered.
        preset: see `sweeps.plan.preset_of`.
        config: how to measure.
        device: `cpu` or `cuda`.
    """
    start_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="easrec-plan-") as folder:
        save_network(
            SequentialRecommender(_largest(preset), part.num_items, preset.search.max_length), folder
        )
        profile = profile_network(
            folder, part, config, device=device, train_batch_size=preset.retrain.batch_size
        )
    more_users = num_users / part.num_users - 1
    return time.perf_counter() - start_s + config.passes * profile.inference_s * more_users


def _largest(preset: Preset) -> Architecture:
    """The architecture of the space that costs most."""
    return max(
        (preset.space.architecture(k, preset.space.num_layers) for k in range(len(preset.space))),
        key=lambda architecture: layer_flops(architecture, preset.search.max_length),
    )


def _fewest_users(data: SplitData) -> int:
    """How many of the first users there must be for one to train on and one to ask in each question set."""
    trained = np.flatnonzero(data.train_ends - data.starts > 1)
    return int(max(trained[0], data.valid.rows[0], data.test.rows[0])) + 1


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
