"""The most accurate network within a budget, and which others the data do not tell apart from it."""

import math
from dataclasses import dataclass

import pandas as pd

from sweeps.choice import LATENCY, best_trial
from sweeps.confidence import Comparison, Confidence
from sweeps.pareto import configurations

FLOPS = "flops"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a network may cost at most; infinite where nothing is asked."""

    latency_ms: float = math.inf
    """Median latency of a request, in milliseconds."""
    flops: float = math.inf
    """FLOPs of one forward pass over a full history."""

    def __str__(self) -> str:
        """As people say it.

        >>> str(Budget(latency_ms=0.3, flops=2e6))
        'at most 0.3 ms and at most 2.00 MFLOPs'
        """
        parts = []
        if math.isfinite(self.latency_ms):
            parts.append(f"at most {self.latency_ms:g} ms")
        if math.isfinite(self.flops):
            parts.append(f"at most {self.flops / 1e6:.2f} MFLOPs")
        return " and ".join(parts) or "no limit"


@dataclass(frozen=True, slots=True)
class Answer:
    """What fits a budget."""

    budget: Budget
    best: str | None
    """The configuration with the best mean accuracy among those that fit; None where none fits."""
    trial_id: str
    """Of its retrainings the one that did best on validation; empty where none fits."""
    equals: dict[str, Comparison]
    """Others that fit and that the data do not tell apart from the best, cheapest first, each with how much
    better the best is."""
    num_fitting: int
    """Configurations that fit."""
    refusal: str
    """Why none fits, a sentence; empty where one does."""


def answer(frame: pd.DataFrame, confidence: Confidence, budget: Budget) -> Answer:
    """The most accurate configuration within a budget, by means over seeds on validation.

    Args:
        frame: one row per finished trial, as `results_frame` makes it.
        confidence: of the same trials.
        budget: what it may cost.
    """
    accuracy = confidence.accuracy
    means = configurations(frame, [FLOPS, LATENCY], accuracy=accuracy).sort_values(FLOPS)
    fits = means
    if math.isfinite(budget.latency_ms):
        measured = fits.dropna(subset=[LATENCY])
        if measured.empty:
            return _refused(budget, "no latency was measured")
        fits = measured[measured[LATENCY] <= budget.latency_ms]
        if fits.empty:
            fastest = f"the fastest network known, {measured[LATENCY].idxmin()}"
            return _refused(budget, f"{fastest}, takes {measured[LATENCY].min():.3f} ms")
    fits = fits[fits[FLOPS] <= budget.flops]
    if fits.empty:
        smallest = f"the smallest network known, {means[FLOPS].idxmin()}"
        what = f"{smallest}, takes {means[FLOPS].min() / 1e6:.2f} MFLOPs"
        if math.isfinite(budget.latency_ms):
            what = f"of the networks that are fast enough none is so small; {what}"
        return _refused(budget, what)
    order = fits.sort_values([accuracy, FLOPS], ascending=[False, True], kind="stable")
    best = str(order.index[0])
    compared = {str(name): confidence.compare(best, str(name)) for name in fits.index if str(name) != best}
    return Answer(
        budget,
        best,
        best_trial(frame, best, reason="").trial_id,
        {name: comparison for name, comparison in compared.items() if not comparison.separated},
        len(fits),
        "",
    )


def _refused(budget: Budget, because: str) -> Answer:
    return Answer(budget, None, "", {}, 0, f"No network known takes {budget}: {because}.")
