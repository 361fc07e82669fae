"""What a user asks of an exploration. Imports nothing slow: the command line's help is made from it."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from easrec.errors import InputError
from sweeps.addresses import STUDY_VARIABLE, check_study_address, masked, with_password
from sweeps.config import SweepConfig, option

Range = tuple[float, float]

_MAY_CHANGE = ("trials", "time_budget", "stalled_trials")
"""Options that a resumed exploration may change: when it ends."""

_FIXES = {
    "hidden_sets": "hidden_intensities",
    "inner_sets": "inner_intensities",
    "pairing": "pairing",
    "gate_layers": "gate_layers",
    "controller_learning_rate": "controller_learning_rate",
    "controller_interval": "controller_interval",
    "depth_cost": "depth_cost",
    "temperature_kind": "temperature_kind",
    "temperature_floor": "temperature_floor",
    "temperature_fraction": "temperature_fraction",
    "temperature_rate": "temperature_rate",
}
"""Parameter of a space -> the option that gives it one value, which takes it out of the space."""


@dataclass(frozen=True, kw_only=True)
class ExploreConfig(SweepConfig):
    """Let Optuna choose lambda, temperatures, candidates and controllers, and find the Pareto front.

    An option that gives a setting one value (such as --gate-layers 1) takes it out of the space.
    """

    # An exploration draws its lambdas, and cannot say beforehand what it will train.
    tradeoffs: Annotated[tuple[float, ...], tyro.conf.Suppress, tyro.conf.Fixed] = ()
    plan: Annotated[bool, tyro.conf.Suppress, tyro.conf.Fixed] = False
    # Of a grid of lambdas alone: one of its trials again, or all of them without what they share.
    from_run: Annotated[str | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    independent: Annotated[bool, tyro.conf.Suppress, tyro.conf.Fixed] = False

    space: Literal["lambda", "controllers", "full"] = "full"
    """What is searched. lambda: that alone. controllers: also the temperature, and the controllers' learning
    rate, interval and depth cost; both have one warm-up per seed. full: also the candidates (intensities,
    pairing, gates), with a warm-up for each set of them that is tried."""
    sampler: Literal["tpe", "nsgaii", "gp", "random", "qmc"] = "tpe"
    """Of Optuna: tpe, nsgaii or gp learn from the trials before; random and qmc (evenly spread) are the
    baselines that they must beat, and repeat exactly whatever runs at once."""
    objectives: tuple[Literal["accuracy", "flops", "latency"], ...] = ("accuracy", "flops")
    """Two or three of: accuracy (validation NDCG@10, up), flops (down), latency (measured p50, down)."""
    trials: int = 30
    """Points to try; each is run once per seed and counts with its means."""
    batch: int | None = None
    """Trials asked for and told together; tpe, nsgaii and gp repeat exactly where it is the same. Left out:
    as many as run at once; for random and qmc all, or --stalled-trials."""
    time_budget: float | None = None
    """Minutes of this run after which no further batch is begun. Left out: no bound."""
    stalled_trials: int | None = None
    """Stop when the hypervolume has not grown for so many finished trials. Left out: never."""
    max_flops: int | None = None
    """The most FLOPs that a network may need over --max-length positions. What would need more is not
    trained, and the sampler learns to avoid it. Left out: no bound."""
    max_params: int | None = None
    """The most parameters of a network, as --max-flops. Left out: no bound."""
    max_latency_ms: float | None = None
    """The most that the p50 latency of a network may be, in ms; it is measured after each batch, and the
    sampler learns from it. Left out: no bound."""
    derive_within_flops: bool = False
    """Of --max-flops: let each search derive the best network within the bound instead, so that none is over
    it. The sampler then learns nothing from the bound."""
    study: str | None = None
    """Where Optuna keeps the study: sqlite:////PATH/study.db, or a database such as
    postgresql+psycopg://USER@HOST/NAME. A password written as *** is that of the same address in
    EASREC_STUDY. Left out: study.journal in the output directory."""
    start_from: str | None = None
    """Begin with what another exploration has finished: its output directory, or the name of its study in
    --study. Its data, objectives and settings must be the same. Left out: begin with nothing."""
    tradeoff_range: Range | None = None
    """Lambda, lowest and highest (both above 0; searched by ratios). Left out: that of the space."""
    temperature_floor_range: Range | None = None
    """Floor of the temperature, lowest and highest. Left out: that of the space."""
    temperature_fraction_range: Range | None = None
    """Share of the steps at which the floor is reached, lowest and highest. Left out: that of the space."""
    temperature_rate_range: Range | None = None
    """Fall of the temperature per step, lowest and highest, of the kinds linear and exponential; it takes the
    place of the fraction. Left out: the fraction is searched."""
    controller_learning_rate_range: Range | None = None
    """Controllers' step size, lowest and highest. Left out: that of the space."""
    temperature_kinds: tuple[Literal["linear", "exponential", "cosine", "constant"], ...] = ()
    """Ways of falling to choose from. Left out: those of the space."""
    hidden_sets: tuple[str, ...] = ()
    """Sets of hidden intensities to choose from, such as 0,0.5,0.75 0,0.25,0.5. Left out: those of the
    space."""
    inner_sets: tuple[str, ...] = ()
    """Sets of inner intensities to choose from, as --hidden-sets. Left out: those of the space."""
    pairings: tuple[Literal["zip", "product"], ...] = ()
    """Pairings to choose from. Left out: those of the space."""
    gate_layer_choices: tuple[Literal[0, 1, 2], ...] = ()
    """Dense layers of the gates to choose from. Left out: those of the space."""
    controller_intervals: tuple[int, ...] = ()
    """Weight steps for each of the controllers' to choose from. Left out: those of the space."""
    depth_costs: tuple[Literal["straight_through", "hard", "expected", "static"], ...] = ()
    """Depth costs to choose from. Left out: those of the space."""

    def check(self) -> None:
        """Refuse options that cannot be meant; see `SweepConfig.check`."""
        super().check()
        if len(set(self.objectives)) != len(self.objectives) or len(self.objectives) < 2:
            raise InputError(
                "--objectives must be two or three different ones of accuracy, flops and latency, got "
                f"{' '.join(self.objectives) or 'none'}"
            )
        for name in ("trials", "batch", "stalled_trials", "max_flops", "max_params"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{option(name)} must be at least 1, got {value}")
        for name in ("time_budget", "max_latency_ms"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"{option(name)} must be above 0, got {value:g}")
        if self.derive_within_flops and self.max_flops is None:
            raise InputError("--derive-within-flops needs --max-flops, the bound to derive within")
        for name in _ranges():
            if (bounds := getattr(self, name)) is not None:
                low, high = bounds
                if not (0 < low < high and math.isfinite(high)):
                    raise InputError(
                        f"{option(name)} must be two numbers above 0, the lower first, got {low:g} {high:g}"
                    )
        if self.temperature_rate_range and self.temperature_fraction_range:
            raise InputError("give either --temperature-rate-range or --temperature-fraction-range, not both")
        if self.study is not None:
            check_study_address(self.study_address or "")
        for asked, one in self._given_twice():
            raise InputError(f"give either {option(asked)} or {option(one)}: one value leaves no range")

    def _given_twice(self) -> list[tuple[str, str]]:
        """(option of a range, option of a value) that are given both."""
        return [
            (asked, _FIXES[parameter])
            for parameter, asked in RANGE_OPTIONS.items()
            if parameter in _FIXES
            and getattr(self, asked) not in (None, ())
            and getattr(self, _FIXES[parameter]) not in (None, ())
        ]

    def fixed(self) -> set[str]:
        """Parameters of a space that have been given one value."""
        return {name for name, one in _FIXES.items() if getattr(self, one) not in (None, ())}

    @property
    def study_address(self) -> str | None:
        """The whole address of --study."""
        return None if self.study is None else with_password(self.study, STUDY_VARIABLE)

    def result_settings(self) -> dict[str, Any]:
        """See `SweepConfig.result_settings`."""
        values = super().result_settings()
        values["study"] = None if self.study is None else masked(self.study)
        return {name: value for name, value in values.items() if name not in _MAY_CHANGE}


RANGE_OPTIONS = {
    "tradeoff": "tradeoff_range",
    "temperature_kind": "temperature_kinds",
    "temperature_floor": "temperature_floor_range",
    "temperature_fraction": "temperature_fraction_range",
    "temperature_rate": "temperature_rate_range",
    "hidden_sets": "hidden_sets",
    "inner_sets": "inner_sets",
    "pairing": "pairings",
    "gate_layers": "gate_layer_choices",
    "controller_learning_rate": "controller_learning_rate_range",
    "controller_interval": "controller_intervals",
    "depth_cost": "depth_costs",
}
"""Parameter of a space -> the option that says what to choose from."""


def _ranges() -> list[str]:
    return [name for name in RANGE_OPTIONS.values() if name.endswith("_range")]
