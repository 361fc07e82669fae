"""What a sweep will run: its preset with the user's changes, and its trials in order."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.models.architecture import CandidateSpace, Weights
from easrec.nas.controllers import TemperatureSchedule
from easrec.nas.resources import smallest_flops
from easrec.nas.search import SearchConfig
from easrec.nas.search_config import WarmupPaths
from easrec.retrain import RetrainConfig
from sweeps.bounds import Budget
from sweeps.config import SweepConfig
from sweeps.method_options import MethodOptions
from sweeps.presets import PRESETS, Preset
from sweeps.trial import TrialConfig

_RENAMED = {
    "search_learning_rate": (SearchConfig, "learning_rate"),
    "retrain_learning_rate": (RetrainConfig, "learning_rate"),
    "retrain_epochs": (RetrainConfig, "max_epochs"),
}
"""Options whose names are not those of the settings that they change."""


def preset_of(config: SweepConfig, *, published: bool = False) -> Preset:
    """The preset of a sweep with the user's changes in it.

    Args:
        config: the sweep.
        published: whether searches train weights and controllers in turn, as the paper's do, unless the user
            wants it otherwise. So do those of `--independent`.

    Raises:
        InputError: options do not fit together.
    """
    preset = PRESETS[config.preset]()
    if published or config.independent:
        preset = dataclasses.replace(
            preset, search=dataclasses.replace(preset.search, search_weights="train")
        )
    space = dataclasses.replace(preset.space, **_given(config, CandidateSpace))
    preset = dataclasses.replace(
        preset,
        space=space,
        search=dataclasses.replace(
            preset.search,
            **{"warmup_paths": warmup_paths(space.weights), **_given(config, SearchConfig)},
            temperature=_temperature(config, preset.search.temperature),
        ),
        retrain=dataclasses.replace(preset.retrain, **_given(config, RetrainConfig)),
        transfer_from="searched" if config.independent else config.transfer_from or preset.transfer_from,
        tradeoffs=config.tradeoffs or preset.tradeoffs,
    )
    config.check_effects(
        attention=preset.space.attention,
        loss=preset.search.loss,
        stop_on=preset.search.stop_on,
        temperature_kind=preset.search.temperature.kind,
    )
    _check_bound(preset)
    _check_halving(config, preset)
    return preset


def warmup_paths(weights: Weights) -> WarmupPaths:
    """What a step of the warm-up trains unless the user says it.

    A mixture of nested slices leaves the widest columns behind, so that a search takes wide candidates for
    worse than they are (docs/oracle.md).
    """
    return "sandwich" if weights == "shared" else "mixture"


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
    bound, smallest = preset.search.max_flops, smallest_flops(preset.space, preset.search.max_length)
    if bound is not None and bound < smallest:
        raise InputError(
            f"--max-flops {bound} leaves no network: the smallest that can be derived needs {smallest} FLOPs"
        )


def _check_halving(config: SweepConfig, preset: Preset) -> None:
    """Refuse a first rung that no retraining comes to before its end."""
    after, most = config.halve_after, preset.retrain.max_epochs
    if after is not None and after >= most:
        raise InputError(
            f"--halve-after {after} stops nothing: a retraining has at most {most} epochs (--retrain-epochs)"
        )


def build_trials(
    config: SweepConfig, preset: Preset, data: SplitData, *, device: str, code_version: str
) -> list[TrialConfig]:
    """One trial for each lambda and seed, in the order in which they are started."""
    return [
        trial
        for tradeoff in extremes_first(preset.tradeoffs)
        for trial in trials_of_seeds(
            config,
            dataclasses.replace(preset, search=dataclasses.replace(preset.search, tradeoff=tradeoff)),
            data,
            device=device,
            code_version=code_version,
        )
    ]


def trials_of_seeds(
    config: SweepConfig,
    preset: Preset,
    data: SplitData,
    *,
    device: str,
    code_version: str,
    budget: Budget | None = None,
) -> list[TrialConfig]:
    """One trial for each seed, with the preset's own lambda."""
    return [
        TrialConfig(
            space=preset.space,
            search=dataclasses.replace(preset.search, seed=seed),
            retrain=dataclasses.replace(preset.retrain, seed=seed),
            transfer_from=preset.transfer_from,
            data_checksum=data.checksum,
            code_version=code_version,
            device=device,
            threads=config.cpus_per_trial,
            warmup_threads=config.warmup_threads,
            measure_on=config.measure_on,
            independent=config.independent,
            budget=budget,
        )
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
