"""What a sweep will run: its trials in order, and the text of --plan."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from easrec.data.batches import num_training_batches
from easrec.data.sequences import SplitData, Targets
from easrec.errors import InputError
from easrec.models.architecture import CandidateSpace
from easrec.nas.controllers import TemperatureSchedule
from easrec.nas.resources import layer_flops, network_flops
from easrec.nas.search import SearchConfig, search, warm_up
from easrec.retrain import RetrainConfig, retrain
from easrec.training import training_form
from sweeps.config import SweepConfig
from sweeps.method_options import MethodOptions
from sweeps.presets import PRESETS, Preset
from sweeps.reporter import duration_text
from sweeps.summary import counted
from sweeps.trial import TrialConfig

_TIMED_STEPS = 3


_RENAMED = {
    "search_learning_rate": (SearchConfig, "learning_rate"),
    "retrain_learning_rate": (RetrainConfig, "learning_rate"),
    "retrain_epochs": (RetrainConfig, "max_epochs"),
}
"""Options whose names are not those of the settings that they change."""


def preset_of(config: SweepConfig) -> Preset:
    """The preset of a sweep with the user's changes in it.

    Raises:
        InputError: options do not fit together.
    """
    preset = PRESETS[config.preset]()
    preset = dataclasses.replace(
        preset,
        space=dataclasses.replace(preset.space, **_given(config, CandidateSpace)),
        search=dataclasses.replace(
            preset.search,
            **_given(config, SearchConfig),
            temperature=_temperature(config, preset.search.temperature),
        ),
        retrain=dataclasses.replace(preset.retrain, **_given(config, RetrainConfig)),
        transfer_from=config.transfer_from or preset.transfer_from,
        tradeoffs=config.tradeoffs or preset.tradeoffs,
    )
    config.check_effects(
        attention=preset.space.attention,
        loss=preset.search.loss,
        stop_on=preset.search.stop_on,
        temperature_kind=preset.search.temperature.kind,
    )
    _check_bound(preset)
    return preset


def _given(config: SweepConfig, settings: type[Any]) -> dict[str, Any]:
    """The options given for fields of a class of settings, under the names of the fields."""
    names = {field.name for field in dataclasses.fields(settings)}
    given = {}
    for field in dataclasses.fields(MethodOptions):
        owner, name = _RENAMED.get(field.name, (settings, field.name))
        value = getattr(config, field.name)
        # A flag that is not set leaves the preset's value too; 0 is a value.
        if owner is settings and name in names and not (value is False or value in (None, ())):
            given[name] = value
    return given


def _temperature(config: SweepConfig, preset: TemperatureSchedule) -> TemperatureSchedule:
    changes = {
        field.name: getattr(config, f"temperature_{field.name}")
        for field in dataclasses.fields(TemperatureSchedule)
        if getattr(config, f"temperature_{field.name}") is not None
    }
    # Where the preset's fall has a rate and the user wants another way of falling.
    if changes.get("fraction") or changes.get("kind") in ("cosine", "constant"):
        changes.setdefault("rate", None)
    if changes.get("rate") and changes.get("kind", preset.kind) in ("cosine", "constant"):
        changes["rate"] = None  # `check_effects` refuses it in the words of the command line
    return dataclasses.replace(preset, **changes)


def _check_bound(preset: Preset) -> None:
    """Refuse a bound on FLOPs that no candidate keeps, before anything is trained."""
    bound, space = preset.search.max_flops, preset.space
    shallow = [space.architecture(candidate, 1) for candidate in range(len(space))]
    smallest = min(network_flops(architecture, preset.search.max_length) for architecture in shallow)
    if bound is not None and bound < smallest:
        raise InputError(
            f"--max-flops {bound} leaves no network: the smallest that can be derived needs {smallest} FLOPs"
        )


def build_trials(
    config: SweepConfig, preset: Preset, data: SplitData, *, device: str, code_version: str
) -> list[TrialConfig]:
    """One trial for each lambda and seed, in the order in which they are started."""
    return [
        TrialConfig(
            space=preset.space,
            search=dataclasses.replace(preset.search, tradeoff=tradeoff, seed=seed),
            retrain=dataclasses.replace(preset.retrain, seed=seed),
            transfer_from=preset.transfer_from,
            data_checksum=data.checksum,
            code_version=code_version,
            device=device,
            threads=config.cpus_per_trial,
            warmup_threads=config.warmup_threads,
            measure_on=config.measure_on,
        )
        for tradeoff in extremes_first(preset.tradeoffs)
        for seed in range(config.seed, config.seed + config.seeds)
    ]


def extremes_first(tradeoffs: Sequence[float]) -> list[float]:
    """The smallest, the largest, the second smallest and so on.

    Neighbours tend to derive the same architecture: started together they would both want its retraining.

    >>> extremes_first([0, 0.1, 1, 3])
    [0, 3, 0.1, 1]
    """
    left = sorted(tradeoffs)
    ordered = []
    while left:
        ordered.append(left.pop(0))
        if left:
            ordered.append(left.pop())
    return ordered


def plan_text(
    config: SweepConfig, preset: Preset, data: SplitData, *, described: str, device: str, cpus: int
) -> str:
    """What --plan prints; takes some seconds, since a few real steps are timed.

    Args:
        config: what the user asked for.
        preset: see `preset_of`.
        data: what will be trained on.
        described: what the data are, see `SweepData`.
        device: where.
        cpus: CPU cores that trials will be packed on.
    """
    space, max_length = preset.space, preset.search.max_length
    attention = space.attention.replace("_", ", ")
    lines = [
        described,
        "",
        f"candidates ({len(space)}), each with 1 to {space.num_layers} layers, {space.weights} weights, "
        f"{counted(space.num_heads, 'head')} of {attention} attention; FLOPs of one layer over "
        f"{max_length} positions:",
    ]
    for candidate in range(len(space)):
        architecture = space.architecture(candidate, 1)
        lines.append(
            f"  {candidate}: hidden {architecture.hidden_size:4d}  inner {architecture.inner_size:5d}  "
            f"{layer_flops(architecture, max_length):13,d} FLOPs per layer"
        )
    if (bound := preset.search.max_flops) is not None:
        lines.append(f"  derived networks need at most {bound:,d} FLOPs")
    tradeoffs, seeds = preset.tradeoffs, config.seeds
    seed_text = f"seed {config.seed}" if seeds == 1 else f"seeds {config.seed} to {config.seed + seeds - 1}"
    lines += [
        "",
        f"trials ({len(tradeoffs) * seeds}): lambda {', '.join(f'{t:g}' for t in sorted(tradeoffs))}; "
        f"{seed_text}",
        f"each: warm-up of {counted(preset.search.warmup_epochs, 'epoch')} (once per seed), search of at "
        f"most {preset.search.search_epochs}, retraining of at most {preset.retrain.max_epochs} epochs",
    ]
    times = _timed(config, preset, data, device)
    slots = max(cpus // config.cpus_per_trial, 1)
    retrain_epochs = min(preset.retrain.max_epochs, 4 * preset.retrain.patience)
    architectures = min(len(tradeoffs), len(space) * space.num_layers)
    estimate_s = seeds * (
        preset.search.warmup_epochs * times["warmup"]
        + len(tradeoffs) * preset.search.search_epochs * times["search"] / slots
        + architectures * retrain_epochs * times["retrain"] / slots
    )
    lines += [
        "",
        f"an epoch: {times['steps']:.0f} steps; about {times['warmup']:.1f} s in the warm-up, "
        f"{times['search']:.1f} s in the search, {times['retrain']:.1f} s in the retraining of the largest "
        "network (from a few steps timed now)",
        f"estimated time on {counted(slots, 'trial')} at once: about {duration_text(estimate_s)}, if "
        f"every lambda gives its own architecture and a retraining takes {retrain_epochs} epochs",
    ]
    return "\n".join(lines)


def _timed(config: SweepConfig, preset: Preset, data: SplitData, device: str) -> dict[str, float]:
    """Seconds of an epoch of each stage, scaled up from a few steps on the first users."""
    length = preset.search.max_length
    steps = steps_per_epoch(preset, data)
    share = min(1.0, _TIMED_STEPS / steps)
    part = _first_users(data, max(round(share * data.num_users), _fewest_users(data)))
    scale = data.num_users / part.num_users
    search_config = dataclasses.replace(preset.search, warmup_epochs=1, search_epochs=1)
    retrain_config = dataclasses.replace(preset.retrain, max_epochs=1)
    threads = torch.get_num_threads()
    # So few users make so few steps that the search would warn of it.
    search_logger = logging.getLogger("easrec.nas")
    level = search_logger.level
    search_logger.setLevel(logging.ERROR)
    largest = max(
        (preset.space.architecture(k, preset.space.num_layers) for k in range(len(preset.space))),
        key=lambda architecture: layer_flops(architecture, length),
    )
    try:
        torch.set_num_threads(config.warmup_threads)
        warm = warm_up(part, preset.space, search_config, device=device)
        torch.set_num_threads(config.cpus_per_trial)
        searched = search(part, preset.space, search_config, warm=warm, device=device)
        retrained = retrain(largest, part, retrain_config, device=device)
    finally:
        torch.set_num_threads(threads)
        search_logger.setLevel(level)
    return {
        "steps": steps,
        "warmup": scale * warm.epochs[0].duration_s,
        "search": scale * searched.search_s,
        "retrain": scale * retrained.retrain_s,
    }


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
