"""What a sweep knows about each of its trials, and the table of them all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from easrec.models.architecture import Architecture
from sweeps.pareto import ACCURACY, pareto_flags

Unfinished = Literal["failed", "refused", "stopped"]
"""How a trial ends without a result: something went wrong, its network is over the budget, or its retraining
was stopped early because it could not reach the front."""

Param = str | int | float | bool
Curve = list[tuple[int, int, float]]
"""(step, timestamp in ms since 1970, value) of one metric over the epochs of a trial."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A finished trial: one tradeoff and seed, the network derived for them and what it achieved.

    Two records of the same trial are the same in every field but those that were added later (latency
    is measured when all trials have been trained), so recording one again changes nothing.
    """

    trial_id: str
    """Key of the trial's content; the same trial has the same key in every attempt."""
    tradeoff: float
    """Weight of the resource term in the search (lambda in the paper)."""
    seed: int
    """Seed of the trial's warm-up, search and retraining."""
    architecture: Architecture
    """The derived network."""
    params: dict[str, Param]
    """Every setting and the derived architecture, nested names joined by dots."""
    metrics: dict[str, float]
    """Final figures under the names that MLflow and the results table share, in the units that they name."""
    start_ms: int
    """When the trial started, in ms since 1970."""
    end_ms: int
    """When the trial ended, in ms since 1970; the final metrics carry this time."""
    curves: dict[str, Curve] = field(default_factory=dict)
    """Metric -> its points over the epochs; never a name that `metrics` has."""
    tags: dict[str, str] = field(default_factory=dict)
    """What may be filtered by in MLflow, such as the commit and the checksum of the data."""
    artifacts: dict[str, Path] = field(default_factory=dict)
    """Path among the run's artifacts, such as `weights.safetensors` -> the file."""

    def __post_init__(self) -> None:
        if self.end_ms < self.start_ms:
            raise ValueError(f"a trial cannot end before it starts, got {self.start_ms=}, {self.end_ms=}")
        both = sorted(set(self.curves) & set(self.metrics))
        if both:
            raise ValueError(f"{both[0]} is both a final metric and a curve; rename the curve")


@dataclass(frozen=True, kw_only=True)
class FailedTrial:
    """A trial that ended without a network that may be compared."""

    trial_id: str
    """Key of the trial's content."""
    tradeoff: float
    """Weight of the resource term in the search (lambda in the paper)."""
    seed: int
    """Seed of the trial."""
    params: dict[str, Param]
    """Every setting, nested names joined by dots."""
    error: str
    """One sentence that says what went wrong, or why it was refused or stopped."""
    start_ms: int
    """When the trial started, in ms since 1970."""
    end_ms: int
    """When the trial ended, in ms since 1970."""
    tags: dict[str, str] = field(default_factory=dict)
    """As in `TrialRecord`."""
    status: Unfinished = "failed"
    """Which of the three; what is refused or stopped is no error."""


def results_frame(records: Sequence[TrialRecord], *, accuracy: str = ACCURACY) -> pd.DataFrame:
    """One row per trial: what it was, every metric, and whether its network is on a front.

    Rows are ordered by seed and tradeoff, whatever order the trials finished in. A metric that a trial
    lacks is NaN. `pareto` is the front in (accuracy up, FLOPs down), `pareto_latency` the one in
    (accuracy up, latency_ms_p50 down); see `pareto_flags`.
    """
    if not records:
        raise ValueError("a table of results needs at least one trial")
    ordered = sorted(records, key=lambda record: (record.seed, record.tradeoff, record.trial_id))
    repeated = {record.trial_id for record in ordered}
    if len(repeated) < len(ordered):
        raise ValueError("two records have the same trial_id")
    identity = pd.DataFrame(
        [
            {
                "trial_id": record.trial_id,
                "tradeoff": record.tradeoff,
                "seed": record.seed,
                "architecture_id": record.architecture.architecture_id,
                **record.architecture.to_dict(),
            }
            for record in ordered
        ]
    )
    names = sorted({name for record in ordered for name in record.metrics})
    metrics = pd.DataFrame(
        [[record.metrics.get(name, float("nan")) for name in names] for record in ordered],
        columns=names,
        dtype="float64",
    )
    frame = pd.concat([identity, metrics], axis="columns")
    frame["pareto"] = pareto_flags(frame, accuracy=accuracy, cost="flops")
    frame["pareto_latency"] = pareto_flags(frame, accuracy=accuracy, cost="latency_ms_p50")
    return frame
