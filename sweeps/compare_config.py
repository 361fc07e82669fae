"""What a user asks of a comparison. Imports nothing slow: the command line's help is made from it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from easrec.errors import InputError
from sweeps.config import SweepConfig

MethodName = Literal[
    "easrec",
    "darts",
    "proxylessnas",
    "recnas",
    "sasrec",
    "fdsa",
    "sasrecf",
    "sasrec-linrec",
    "fdsa-linrec",
    "sasrecf-linrec",
    "random",
    "exhaustive",
]

LABELS: dict[str, str] = {
    "easrec": "EASRec",
    "darts": "DARTS + SASRec",
    "proxylessnas": "ProxylessNAS + SASRec",
    "recnas": "RecNAS + SASRec",
    "sasrec": "SASRec (w/o LinRec)",
    "fdsa": "FDSA (w/o LinRec)",
    "sasrecf": "SASRecF (w/o LinRec)",
    "sasrec-linrec": "SASRec (w LinRec)",
    "fdsa-linrec": "FDSA (w LinRec)",
    "sasrecf-linrec": "SASRecF (w LinRec)",
    "random": "random search",
    "exhaustive": "exhaustive search",
}
"""Methods by name, in the order of the tables; the paper's are called as its Table III calls them."""

READ_FEATURES = ("fdsa", "sasrecf", "fdsa-linrec", "sasrecf-linrec")
"""Methods that read what is known of the items."""

_ALL_BUT = ("exhaustive",)

PAPER_NAMES = {"ml-1m": "ML-1M", "gowalla": "Gowalla", "douban": "Douban"}
"""Data sets that the paper has figures of, as it calls them."""

ELSEWHERE = {
    option: f"{option} is an option of lambda_sweep.py: a comparison {instead}"
    for instead, options in {
        "runs each method once per seed, EASRec at one --tradeoff": (
            "--tradeoffs",
            "--plan",
            "--from-run",
            "--independent",
        ),
        "trains every network to its own end": ("--halve-after", "--halve-factor"),
    }.items()
    for option in options
}
"""Options of a sweep that a comparison has not, and what is said of them."""

_MAY_CHANGE = ("methods", "exhaustive", "recnas_budget", "without_features", "timings", "beside_paper")
"""Options that a resumed comparison may change: each result is kept by what it depends on."""


@dataclass(frozen=True, kw_only=True)
class ComparedConfig(SweepConfig):
    """What comparisons of methods and of settings have in common."""

    timings: int = 5
    """How often each network is measured: one after the other, then all again, so that what the machine does
    besides meets all alike. At least 2 for differences in cost to be judged."""

    # Of a sweep alone: a comparison has one lambda, and shares what its methods have in common.
    tradeoffs: Annotated[tuple[float, ...], tyro.conf.Suppress, tyro.conf.Fixed] = ()
    plan: Annotated[bool, tyro.conf.Suppress, tyro.conf.Fixed] = False
    from_run: Annotated[str | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    independent: Annotated[bool, tyro.conf.Suppress, tyro.conf.Fixed] = False
    halve_after: Annotated[int | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    halve_factor: Annotated[int | None, tyro.conf.Suppress, tyro.conf.Fixed] = None

    tradeoff: float = 0.1
    """Weight of the resource term (lambda in the paper) in every search that has one (no unit)."""

    def check(self) -> None:
        """Refuse options that cannot be meant; `InputError` names the option and its value."""
        SweepConfig.check(self)
        if not (self.tradeoff >= 0 and math.isfinite(self.tradeoff)):
            raise InputError(f"--tradeoff must be a finite number of at least 0, got {self.tradeoff:g}")
        if self.timings < 1:
            raise InputError(f"--timings must be at least 1, got {self.timings}")

    def result_settings(self) -> dict[str, Any]:
        """As of a sweep, without what a resumed comparison may change."""
        return {
            name: str(value.resolve()) if isinstance(value, Path) else value
            for name, value in SweepConfig.result_settings(self).items()
            if name not in _MAY_CHANGE
        }


@dataclass(frozen=True, kw_only=True)
class CompareConfig(ComparedConfig):
    """Compare EASRec with other searches and with fixed networks: the paper's Tables III and IV.

    All methods get the same data, split, optimiser, early stopping, epochs and seeds. An option left out
    takes the value of the preset where its help says so.
    """

    methods: tuple[MethodName, ...] = ()
    """Which methods. Left out: all but exhaustive."""
    exhaustive: bool = False
    """Also retrain every architecture of EASRec's space: dear, and the best that a search could find."""
    size: Literal["linrec", "supernet"] = "linrec"
    """Layers, heads and attention dropout of SASRec, FDSA and SASRecF. linrec: 2 layers, 8 heads, dropout
    0.2, as LinRec's settings are. supernet: layers and heads of the supernet, no attention dropout."""
    recnas_budget: float = 0.5
    """Bound on the FLOPs of RecNAS, whose searches are under one, where there is no --max-flops: as a share
    of the largest network that it could derive."""
    features: Path | None = None
    """File that describes the items (.parquet or .item), for FDSA and SASRecF. Left out: what the data set
    brings along."""
    feature_names: tuple[str, ...] = ()
    """Features that they read. Left out: the only one, or genres, tags, categories, whichever there is."""
    without_features: bool = False
    """Leave FDSA and SASRecF out."""
    beside_paper: bool = False
    """Also print the paper's figures beside ours, and what differs."""

    def check(self) -> None:
        """Refuse options that cannot be meant; `InputError` names the option and its value."""
        ComparedConfig.check(self)
        known = get_args(MethodName)
        for name in self.methods:
            if name not in known:
                raise InputError(f"--methods must be some of {', '.join(known)}, got {name}")
            if self.methods.count(name) > 1:
                raise InputError(f"--methods names {name} twice")
        if not 0 < self.recnas_budget <= 1:
            raise InputError(f"--recnas-budget must lie in (0, 1], got {self.recnas_budget:g}")
        reading = [name for name in self.methods if name in READ_FEATURES]
        if reading and self.without_features:
            raise InputError(f"--methods names {reading[0]}, which --without-features leaves out")
        if self.without_features and (self.features is not None or self.feature_names):
            named = "--features" if self.features is not None else "--feature-names"
            raise InputError(f"{named} says what to read, and --without-features that nothing is read")
        if self.beside_paper and self.paper_name is None:
            raise InputError(
                f"--beside-paper: the paper has no figures of {self.data_name}; it has those of "
                f"{', '.join(PAPER_NAMES)}, each by --dataset"
            )
        if not self.chosen:
            raise InputError("--methods leaves nothing to compare")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The methods, in the order of the tables."""
        wanted = set(self.methods) or set(LABELS) - set(_ALL_BUT)
        if self.exhaustive:
            wanted.add("exhaustive")
        if self.without_features:
            wanted -= set(READ_FEATURES)
        return tuple(name for name in LABELS if name in wanted)

    @property
    def paper_name(self) -> str | None:
        """What the paper calls the data set, if it has figures of it."""
        return PAPER_NAMES.get(self.dataset or "")
