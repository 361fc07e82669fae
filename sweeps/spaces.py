"""Spaces that a sweep explores: which settings, in which ranges, and what a point of them means.

A space has the same parameters at every point. A point with a constant temperature has a floor and a fraction
too, which then change nothing: samplers that model all parameters together leave out those that only some
points have, and would draw them at random for ever.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from easrec.errors import InputError
from easrec.models.architecture import CandidateSpace, GateLayers, Pairing
from easrec.nas.controllers import ScheduleKind
from easrec.nas.resources import DepthCost
from sweeps.presets import Preset

Value = str | int | float
Point = Mapping[str, Value]
"""Name of a parameter -> its value."""

SpaceName = Literal["lambda", "controllers", "full"]

_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Interval:
    """A range of real numbers."""

    low: float
    high: float
    log: bool = False
    """Whether equal ratios count as equally far apart, instead of equal differences."""

    def at(self, share: float) -> float:
        """The number at a share in [0, 1] of the way from low to high.

        >>> round(Interval(0.01, 1.0, log=True).at(0.5), 9)
        0.1
        """
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return min(max(value, self.low), self.high)


@dataclass(frozen=True, slots=True)
class Choices:
    """A few values without an order."""

    values: tuple[Value, ...]

    def at(self, share: float) -> Value:
        """The value at a share in [0, 1] of the way through them.

        >>> Choices(("zip", "product")).at(0.7)
        'product'
        """
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]


Parameter = Interval | Choices


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """What is searched; a setting without a range is the preset's, or what the user gave for it."""

    tradeoff: Interval | None = None
    """Lambda, the weight of the resource term (no unit)."""
    temperature_kind: tuple[ScheduleKind, ...] = ()
    """How the temperature of the controllers falls."""
    temperature_floor: Interval | None = None
    """Below which it never falls (no unit)."""
    temperature_fraction: Interval | None = None
    """How fast: the share of the planned steps at which the floor is reached."""
    temperature_rate: Interval | None = None
    """How fast: the fall per step, of the kinds linear and exponential; instead of the fraction."""
    hidden_sets: tuple[tuple[float, ...], ...] = ()
    """Sets of shares of hidden dimensions that the candidates mask."""
    inner_sets: tuple[tuple[float, ...], ...] = ()
    """Sets of shares of inner dimensions that the candidates mask."""
    pairing: tuple[Pairing, ...] = ()
    """How the two sets make candidates."""
    gate_layers: tuple[GateLayers, ...] = ()
    """Dense layers of each gate."""
    controller_learning_rate: Interval | None = None
    """Adam's step size for the controllers."""
    controller_interval: tuple[int, ...] = ()
    """Weight steps for each step of the controllers."""
    depth_cost: tuple[DepthCost, ...] = ()
    """How the depth enters the resource term."""

    def parameters(self) -> dict[str, Parameter]:
        """What is searched, by name, in a fixed order.

        >>> list(SearchSpace(tradeoff=Interval(0.01, 1, log=True), gate_layers=(0, 2)).parameters())
        ['tradeoff', 'gate_layers']
        """
        found: dict[str, Parameter] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Interval):
                found[field.name] = value
            elif value:
                found[field.name] = Choices(tuple(map(set_text, value)) if "sets" in field.name else value)
        return found

    def candidate_spaces(self, preset: Preset) -> Iterator[CandidateSpace]:
        """Every space of candidates that a point may have; `InputError` where one cannot be."""
        choices = {
            name: parameter.values
            for name, parameter in self.parameters().items()
            if name in _OF_CANDIDATES and isinstance(parameter, Choices)
        }
        for values in product(*choices.values()):
            yield apply(dict(zip(choices, values, strict=True)), preset).space


_OF_CANDIDATES = ("hidden_sets", "inner_sets", "pairing", "gate_layers")


def set_text(shares: tuple[float, ...]) -> str:
    """A set of intensities as one value.

    >>> set_text((0.0, 0.5, 0.75))
    '0,0.5,0.75'
    """
    return ",".join(f"{share:g}" for share in shares)


def parse_set(text: str) -> tuple[float, ...]:
    """The inverse of `set_text`; `InputError` for what is no list of numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"a set of intensities is written as 0,0.5,0.75, got {text!r}") from None


def apply(point: Point, preset: Preset) -> Preset:
    """A preset with the settings of a point; real numbers are rounded to three digits, which names can show.

    Raises:
        InputError: the settings do not go together.
    """
    values = {
        name: float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
        for name, value in point.items()
    }
    renamed = {"hidden_sets": "hidden_intensities", "inner_sets": "inner_intensities"}
    space = {
        renamed.get(name, name): parse_set(str(value)) if name in renamed else value
        for name, value in values.items()
        if name in _OF_CANDIDATES
    }
    temperature = {
        name.removeprefix("temperature_"): value
        for name, value in values.items()
        if name.startswith("temperature_")
    }
    kind = temperature.get("kind", preset.search.temperature.kind)
    if (temperature and kind in ("cosine", "constant")) or "fraction" in temperature:
        temperature["rate"] = None  # type: ignore[assignment]
    search = {
        name: value
        for name, value in values.items()
        if name not in _OF_CANDIDATES and not name.startswith("temperature_")
    }
    return dataclasses.replace(
        preset,
        space=dataclasses.replace(preset.space, **space),  # type: ignore[arg-type]
        search=dataclasses.replace(
            preset.search,
            temperature=dataclasses.replace(preset.search.temperature, **temperature),  # type: ignore[arg-type]
            **search,  # type: ignore[arg-type]
        ),
    )


def tradeoff_space() -> SearchSpace:
    """Lambda alone: what a grid of a lambda sweep is drawn from. One warm-up per seed."""
    return SearchSpace(tradeoff=Interval(0.003, 30.0, log=True))


def controllers_space() -> SearchSpace:
    """All that the controllers learn by: one warm-up per seed, since the candidates stay the same."""
    return dataclasses.replace(
        tradeoff_space(),
        temperature_kind=("linear", "exponential", "cosine", "constant"),
        temperature_floor=Interval(0.05, 0.5, log=True),
        temperature_fraction=Interval(0.3, 1.0),
        controller_learning_rate=Interval(0.003, 0.1, log=True),
        controller_interval=(1, 2, 4),
        depth_cost=("straight_through", "hard", "expected", "static"),
    )


def full_space() -> SearchSpace:
    """The controllers and the candidates; each set of candidates has a warm-up of its own."""
    sets = ((0.0, 0.5, 0.75), (0.0, 0.25, 0.5))
    return dataclasses.replace(
        controllers_space(),
        hidden_sets=sets,
        inner_sets=sets,
        pairing=("zip", "product"),
        gate_layers=(0, 1, 2),
    )


SPACES: dict[SpaceName, Callable[[], SearchSpace]] = {
    "lambda": tradeoff_space,
    "controllers": controllers_space,
    "full": full_space,
}
