"""What an exploration will try: its space, its budget, and the trials of a point."""

import dataclasses
from typing import Any

from easrec.data.sequences import SplitData
from easrec.errors import InputError
from sweeps.bounds import Budget
from sweeps.explore_config import RANGE_OPTIONS, ExploreConfig
from sweeps.plan import preset_of, trials_of_seeds
from sweeps.presets import Preset
from sweeps.spaces import SPACES, Interval, Point, SearchSpace, apply, parse_set
from sweeps.trial import TrialConfig

_LOG = ("tradeoff", "temperature_floor", "temperature_rate", "controller_learning_rate")
"""Parameters of which equal ratios count as equally far apart."""


def explored_preset(config: ExploreConfig) -> Preset:
    """The preset with the user's changes in it; see `preset_of` for errors.

    A bound on FLOPs is one of the derivation only where the user wants that.
    """
    preset = preset_of(dataclasses.replace(config, max_flops=None))
    if not config.derive_within_flops:
        return preset
    return dataclasses.replace(preset, search=dataclasses.replace(preset.search, max_flops=config.max_flops))


def space_of(config: ExploreConfig, preset: Preset) -> SearchSpace:
    """The space that the options name, with the user's ranges, and without what was given one value.

    Raises:
        InputError: nothing is left to search, or a point of it cannot be.
    """
    changes: dict[str, Any] = {
        parameter: _range(parameter, asked)
        for parameter, name in RANGE_OPTIONS.items()
        if (asked := getattr(config, name)) not in (None, ())
    }
    if config.temperature_rate_range is not None:
        changes["temperature_fraction"] = None
    space = dataclasses.replace(SPACES[config.space](), **changes)
    # A single choice is no search either, but it is a setting.
    gone = config.fixed()
    if "temperature_rate" in gone:
        gone.add("temperature_fraction")
    kinds = space.temperature_kind if "temperature_kind" not in gone else ()
    if (kinds or (preset.search.temperature.kind,)) == ("constant",):
        gone |= {"temperature_floor", "temperature_fraction", "temperature_rate"}
    nothing: dict[str, Any] = {
        name: None if isinstance(getattr(space, name), Interval) else () for name in gone
    }
    space = dataclasses.replace(space, **nothing)
    _check_pairing(space, preset)
    for _ in space.candidate_spaces(preset):
        pass
    for share in (0.0, 1.0):  # both ends of each range
        apply({name: parameter.at(share) for name, parameter in space.parameters().items()}, preset)
    return space


def _range(parameter: str, asked: tuple[Any, ...]) -> Any:
    if parameter in ("hidden_sets", "inner_sets"):
        return tuple(parse_set(text) for text in asked)
    if RANGE_OPTIONS[parameter].endswith("_range"):
        low, high = asked
        return Interval(low, high, parameter in _LOG)
    repeated = [value for value in asked if asked.count(value) > 1]
    if repeated:
        raise InputError(f"a choice of {parameter} comes twice: {repeated[0]}")
    return asked


def _check_pairing(space: SearchSpace, preset: Preset) -> None:
    """Refuse sets that cannot be zipped, in the words of the options."""
    if "zip" not in (space.pairing or (preset.space.pairing,)):
        return
    hidden = space.hidden_sets or (preset.space.hidden_intensities,)
    inner = space.inner_sets or (preset.space.inner_intensities,)
    lengths = {len(shares) for shares in (*hidden, *inner)}
    if len(lengths) > 1:
        raise InputError(
            "with pairing zip all sets of hidden and inner intensities must have as many shares, got sets of "
            f"{' and '.join(map(str, sorted(lengths)))}; give sets of one length, or --pairing product"
        )


def budget_of(config: ExploreConfig, preset: Preset, space: SearchSpace, data: SplitData) -> Budget:
    """What a network may cost.

    Raises:
        InputError: no network of the whole space keeps it.
    """
    budget = Budget(
        max_flops=config.max_flops,
        max_params=config.max_params,
        max_latency_ms=config.max_latency_ms,
        max_length=preset.search.max_length,
        num_items=data.num_items,
    )
    networks = [
        candidates.architecture(candidate, 1)
        for candidates in space.candidate_spaces(preset)
        for candidate in range(len(candidates))
    ]
    if all(budget.refusal(network) for network in networks):
        smallest = min(networks, key=lambda network: budget.known_costs(network)["flops"])
        raise InputError(
            f"no network of the space is within the budget: the smallest, {smallest.architecture_id}, "
            f"{budget.refusal(smallest)}"
        )
    return budget


def trials_of(
    point: Point,
    config: ExploreConfig,
    preset: Preset,
    data: SplitData,
    budget: Budget,
    *,
    device: str,
    code_version: str,
) -> list[TrialConfig]:
    """The trials of a point, one for each seed."""
    return trials_of_seeds(
        config, apply(point, preset), data, device=device, code_version=code_version, budget=budget
    )


def refused_space(trial: TrialConfig) -> str | None:
    """Why a trial need not even be warmed up: all its networks are over the budget; None if one is not."""
    assert trial.budget is not None  # every trial of an exploration has one
    networks = [trial.space.architecture(candidate, 1) for candidate in range(len(trial.space))]
    refusals = [trial.budget.refusal(network) for network in networks]
    return f"its smallest network {refusals[-1]}" if all(refusals) else None
