"""Which network of a sweep to ship.

Validation alone chooses, as it did in the sweep; a test figure is never looked at. An architecture is
judged by its mean accuracy over seeds (`sweeps.pareto.configurations`); once it is chosen, the seed whose
network did best on validation is the one to ship.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from easrec.errors import InputError
from sweeps.pareto import configurations, pareto_flags
from sweeps.summary import counted

LATENCY = "latency_ms_p50"
_COST = "flops"
_ACCURACIES = ("valid/unseen/ndcg_at_10", "valid/full/ndcg_at_10")
_MAX_LATENCY = "max-latency-ms"
_NOTHING_FINISHED = (
    "no trial of the sweep has finished, so there is no network to choose; go on with it by "
    "lambda_sweep.py --resume"
)


@dataclass(frozen=True, slots=True)
class Pick:
    """A rule that names one architecture of a sweep."""

    rule: Literal["knee", "best", "max-latency-ms"]
    """`knee`: the bend of the front. `best`: the most accurate. `max-latency-ms`: the most accurate one that
    is fast enough."""
    limit_ms: float = math.inf
    """Highest median latency of a request, in milliseconds; of `max-latency-ms` alone."""

    @classmethod
    def parse(cls, text: str) -> "Pick":
        """The rule that a user writes as `knee`, `best` or `max-latency-ms=X`.

        >>> Pick.parse("max-latency-ms=0.6").limit_ms
        0.6

        Raises:
            InputError: it is none of these.
        """
        name, _, value = text.partition("=")
        if text == "knee":
            return cls("knee")
        if text == "best":
            return cls("best")
        if name != _MAX_LATENCY:
            raise InputError(f"--pick must be knee, best or {_MAX_LATENCY}=X, got {text!r}")
        try:
            limit_ms = float(value)
        except ValueError:
            limit_ms = math.nan
        if not (limit_ms > 0 and math.isfinite(limit_ms)):
            raise InputError(f"--pick {_MAX_LATENCY}=X takes X in milliseconds, above 0, got {value!r}")
        return cls("max-latency-ms", limit_ms)


@dataclass(frozen=True, slots=True)
class Choice:
    """The trial whose network is to be shipped, and why."""

    trial_id: str
    architecture_id: str
    seed: int
    reason: str
    """One sentence for people."""


def selection_metric(frame: pd.DataFrame) -> str:
    """The metric that chose in a sweep: validation NDCG@10, under `unseen` unless its histories repeat items.

    Raises:
        InputError: the results have neither.
    """
    for name in _ACCURACIES:
        if name in frame.columns and frame[name].notna().any():
            return name
    raise InputError(_NOTHING_FINISHED)


def finished(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of trials that finished and have an accuracy; a failed trial never counts."""
    accuracy = selection_metric(frame)
    rows = frame[accuracy].notna()
    if "status" in frame.columns:
        rows &= frame["status"] == "finished"
    if not rows.any():
        raise InputError(_NOTHING_FINISHED)
    return frame[rows]


def choose(frame: pd.DataFrame, pick: Pick) -> Choice:
    """The trial that a rule names.

    Args:
        frame: one row per trial, as in results.parquet: trial_id, architecture_id, seed, tradeoff, status and
            metrics.
        pick: the rule.

    Raises:
        InputError: no trial has finished, or none is as fast as asked for.
    """
    rows = finished(frame)
    accuracy = selection_metric(rows)
    means = configurations(rows, [_COST, LATENCY], accuracy=accuracy).sort_index()
    if pick.rule == "knee":
        front = set(rows.loc[pareto_flags(rows, accuracy=accuracy, cost=_COST), "architecture_id"])
        points = means[means.index.isin(front)].sort_values(_COST, kind="stable")
        index = knee(points[_COST].to_numpy(), points[accuracy].to_numpy())
        chosen = str(points.index[index])
        why = f"the knee of a front of {counted(len(points), 'network')}"
    elif pick.rule == "best":
        chosen = _most_accurate(means, accuracy)
        why = f"the most accurate of {counted(len(means), 'network')}"
    else:
        chosen = _most_accurate(_fast_enough(means, pick.limit_ms), accuracy)
        why = f"the most accurate with a p50 latency of at most {pick.limit_ms:g} ms"
    value, flops, latency_ms = (float(means[name][chosen]) for name in (accuracy, _COST, LATENCY))
    latency = "" if math.isnan(latency_ms) else f", {latency_ms:.2f} ms"
    reason = f"{why}: {accuracy} {value:.4f}, {flops / 1e6:.2f} MFLOPs{latency}"
    return best_trial(rows, chosen, reason=reason)


def best_trial(frame: pd.DataFrame, architecture_id: str, *, reason: str) -> Choice:
    """Of the finished trials that derived an architecture, the one that did best on validation.

    Trials of one seed may share a retraining and so be equal: the one with the smallest tradeoff counts.

    Raises:
        KeyError: no finished trial derived it.
    """
    rows = finished(frame)
    rows = rows[rows["architecture_id"] == architecture_id]
    if rows.empty:
        raise KeyError(architecture_id)
    order = [selection_metric(rows), "seed", "tradeoff"]
    best = rows.sort_values(order, ascending=[False, True, True], kind="stable").iloc[0]
    seeds = rows["seed"].nunique()
    if seeds > 1:
        reason += f"; seed {best['seed']} is the best of {seeds} on validation"
    return Choice(str(best["trial_id"]), architecture_id, int(best["seed"]), reason)


def knee(costs: npt.NDArray[np.float64], accuracies: npt.NDArray[np.float64]) -> int:
    """Where a front bends: the point farthest above the line between its ends.

    Both axes are scaled to [0, 1] between the ends, the cost after taking its logarithm: a front spans powers
    of ten, and on a linear axis the line would follow its dearest point alone. A front of one or two points,
    and one with no point above the line, has no bend; its most accurate point is taken.

    >>> knee(np.array([1e6, 2e6, 4e6]), np.array([0.10, 0.13, 0.14]))
    1

    Args:
        costs: above 0, ascending, (P,).
        accuracies: of the same points, ascending, (P,).

    Returns:
        Index of the point.
    """
    if len(costs) == 0:
        raise ValueError("a front needs a point")
    logs = np.log(costs)
    last = len(costs) - 1
    # Equal points may all be on a front, so that its ends may coincide.
    if logs[last] == logs[0] or accuracies[last] == accuracies[0]:
        return int(np.argmax(accuracies))
    x = (logs - logs[0]) / (logs[last] - logs[0])
    y = (accuracies - accuracies[0]) / (accuracies[last] - accuracies[0])
    # The distance from the line y = x is this over the root of two.
    above = y - x
    above[[0, last]] = 0.0
    best = int(np.argmax(above))
    return best if above[best] > 0 else last


def _most_accurate(means: pd.DataFrame, accuracy: str) -> str:
    """The id of the most accurate architecture; of equals the cheapest."""
    order = means.sort_values([accuracy, _COST], ascending=[False, True], kind="stable")
    return str(order.index[0])


def _fast_enough(means: pd.DataFrame, limit_ms: float) -> pd.DataFrame:
    measured = means.dropna(subset=[LATENCY])
    if measured.empty:
        raise InputError("no latency of the sweep was measured; choose by --pick knee or best")
    fits = measured[measured[LATENCY] <= limit_ms]
    if fits.empty:
        raise InputError(
            f"no network of the sweep has a p50 latency of at most {limit_ms:g} ms; the fastest, "
            f"{measured[LATENCY].idxmin()}, takes {measured[LATENCY].min():.3f} ms"
        )
    return fits
