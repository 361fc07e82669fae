"""What a report says of an experiment, in numbers: nothing here is drawn or printed."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from sweeps.budget import FLOPS, Answer, Budget, answer
from sweeps.choice import LATENCY, knee
from sweeps.confidence import Comparison, Confidence, Spread
from sweeps.configurations import configurations_frame
from sweeps.fronts import front, hypervolume_steps
from sweeps.importance import Importances, importances
from sweeps.recorded import Recorded
from sweeps.user_ranks import Gains

COSTS_OF_FRONTS: dict[str, tuple[str, ...]] = {
    "accuracy and FLOPs": (FLOPS,),
    "accuracy and latency": (LATENCY,),
    "accuracy, FLOPs and latency": (FLOPS, LATENCY),
}
"""What a front is called -> its costs."""

MOST_LAMBDAS = 20
"""With more values of lambda they are no grid, and each is shown as a point."""


@dataclass(frozen=True, slots=True)
class LambdaRow:
    """What one lambda led to, over its seeds."""

    tradeoff: float
    spread: Spread
    """Of the accuracy."""
    flops: float
    """Mean of the derived networks."""
    flops_low: float
    """The smallest of them."""
    flops_high: float
    """The largest of them."""
    architectures: dict[str, int]
    """Derived architecture -> number of trials."""
    against_first: Comparison | None
    """With the smallest lambda; None for that itself."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is known of an experiment."""

    recorded: Recorded
    confidence: Confidence
    table: pd.DataFrame
    """What `configurations_frame` returned, with architecture_id as its index."""
    fronts: dict[str, list[str]]
    """By what the front is called, its configurations, cheapest first; empty where a cost is unknown."""
    growth: dict[str, "pd.Series[float]"]
    """By what the front is called, what `hypervolume_steps` returned."""
    knee: str
    """The configuration where the front of accuracy and FLOPs bends."""
    lambdas: list[LambdaRow]
    """By lambda, ascending; empty where there is one lambda, or more than `MOST_LAMBDAS`."""
    importances: dict[str, Importances]
    """By result, such as `accuracy`."""
    answer: Answer | None
    """What fits the budget that was asked for, if one was."""
    num_retrainings: int
    num_ranked: int
    """Retrainings whose ranks are known."""

    @cached_property
    def names(self) -> dict[str, str]:
        """What a configuration is called where there is little room, such as `1 x 32/128`.

        Where two would be called the same, both are called by their ids.
        """
        sizes = [name for name in ("num_layers", "hidden_size", "inner_size") if name in self.table]
        if len(sizes) < 3 or self.table[sizes].isna().any(axis=None):
            return {str(name): str(name) for name in self.table.index}
        called = {
            str(name): "{} x {}/{}".format(*map(int, row))
            for name, row in zip(self.table.index, self.table[sizes].to_numpy(), strict=True)
        }
        counts = Counter(called.values())
        return {name: text if counts[text] == 1 else name for name, text in called.items()}

    @property
    def undecided(self) -> list[str]:
        """Configurations on the front of accuracy and FLOPs that the data do not tell apart from their
        cheaper neighbour."""
        return [
            name
            for name in self.fronts["accuracy and FLOPs"]
            if not self.confidence.standings(FLOPS)[name].decided
        ]


def find(recorded: Recorded, gains: Mapping[str, Gains], budget: Budget | None) -> Findings:
    """Work out all that a report says.

    Args:
        recorded: the trials.
        gains: by trial_id, as far as known, what its network earned from each user in the accuracy.
        budget: what the user asks about, if anything.
    """
    frame, accuracy = recorded.frame, recorded.accuracy
    confidence = Confidence(frame, gains, accuracy=accuracy)
    table = configurations_frame(frame, confidence).set_index("architecture_id", drop=False)
    fronts = {
        name: front(frame, costs, accuracy=accuracy) if set(costs) <= set(frame.columns) else []
        for name, costs in COSTS_OF_FRONTS.items()
    }
    by_flops = fronts["accuracy and FLOPs"]
    bend = knee(table.loc[by_flops, FLOPS].to_numpy(), table.loc[by_flops, accuracy].to_numpy())
    retrainings = frame.groupby(["architecture_id", "seed", accuracy])["trial_id"].agg(list)
    params = [recorded.params[name] for name in frame["trial_id"]]
    return Findings(
        recorded=recorded,
        confidence=confidence,
        table=table,
        fronts=fronts,
        growth={
            name: hypervolume_steps(frame, costs, accuracy=accuracy)
            for name, costs in COSTS_OF_FRONTS.items()
        },
        knee=by_flops[bend],
        lambdas=_lambdas(frame, gains, accuracy),
        importances={
            "accuracy": importances(params, frame[accuracy].tolist()),
            "FLOPs": importances(params, np.log10(frame[FLOPS].to_numpy()).tolist()),
        },
        answer=None if budget is None else answer(frame, confidence, budget),
        num_retrainings=len(retrainings),
        num_ranked=sum(any(name in gains for name in names) for names in retrainings),
    )


def _lambdas(frame: pd.DataFrame, gains: Mapping[str, Gains], accuracy: str) -> list[LambdaRow]:
    tradeoffs = sorted(frame["tradeoff"].unique())
    if not 1 < len(tradeoffs) <= MOST_LAMBDAS:
        return []
    # To compare lambdas as configurations are compared, each lambda's networks count as one.
    names = {tradeoff: f"{tradeoff:g}" for tradeoff in tradeoffs}
    confidence = Confidence(
        frame.assign(architecture_id=frame["tradeoff"].map(names)), gains, accuracy=accuracy
    )
    first = names[tradeoffs[0]]
    rows = []
    for tradeoff in tradeoffs:
        own = frame[frame["tradeoff"] == tradeoff]
        name = names[tradeoff]
        rows.append(
            LambdaRow(
                float(tradeoff),
                confidence.spread(name),
                float(own[FLOPS].mean()),
                float(own[FLOPS].min()),
                float(own[FLOPS].max()),
                {str(key): int(number) for key, number in own["architecture_id"].value_counts().items()},
                None if name == first else confidence.compare(name, first),
            )
        )
    return rows


def known(value: float) -> bool:
    """Whether a figure is there: no NaN."""
    return not math.isnan(value)
