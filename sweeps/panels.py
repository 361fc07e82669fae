"""What the charts of a sweep show: points, fronts, seeds, and the words beside them."""

from dataclasses import dataclass

import pandas as pd

from sweeps.confidence import Confidence
from sweeps.intervals import LEVEL
from sweeps.pareto import ACCURACY, configurations, pareto_flags


@dataclass(frozen=True, kw_only=True)
class ChartLabels:
    """What the charts say about the runs besides what the results hold."""

    dataset: str
    """Name of the data set."""
    max_length: int
    """N, the positions that FLOPs and latency are for."""
    threads: int
    """Threads that latency was measured with."""
    accuracy: str = ACCURACY
    """The metric that chooses."""

    @property
    def accuracy_title(self) -> str:
        """The accuracy as an axis title, such as `validation NDCG@10 (unseen), used by the search`."""
        split, protocol, metric = self.accuracy.split("/")
        name, _, cutoff = metric.partition("_at_")
        spelled = {"valid": "validation"}.get(split, split)
        return f"{spelled} {name.upper()}@{cutoff} ({protocol}), used by the search"

    @property
    def costs(self) -> dict[str, str]:
        """The metric of each panel and its axis title."""
        plural = "" if self.threads == 1 else "s"
        return {
            "flops": f"FLOPs of one forward pass, N = {self.max_length}",
            "latency_ms_p50": f"latency of one request in ms (p50, {self.threads} thread{plural})",
        }


@dataclass(frozen=True)
class Panel:
    """What one panel shows."""

    means: pd.DataFrame
    """Index architecture_id; columns x, y (means over seeds), low, high (the interval of y, NaN without
    one), front (bool), decided (bool: see `Standing.decided`), label; sorted by x."""
    seeds: pd.DataFrame
    """Columns x, y, front: the single retrainings where an architecture has several."""


def panel_of(frame: pd.DataFrame, cost: str, accuracy: str, confidence: Confidence | None = None) -> Panel:
    """The points of one panel: architectures that have both the accuracy and the cost.

    Args:
        frame: what `results_frame` returned.
        cost: name of the metric to be low.
        accuracy: name of the metric to be high.
        confidence: of the same trials; left out, it is made from seeds alone.
    """
    confidence = confidence or Confidence(frame, accuracy=accuracy)
    means = configurations(frame, [cost], accuracy=accuracy).dropna()
    means.columns = pd.Index(["y", "x"])
    flags = pareto_flags(frame, accuracy=accuracy, cost=cost)
    front = set(frame.loc[flags, "architecture_id"])
    labels = tradeoff_labels(frame, counted=False)
    means["front"] = means.index.isin(front)
    means["label"] = [labels[name] for name in means.index]
    spreads = [confidence.spread(str(name)) for name in means.index]
    means["low"] = [spread.low for spread in spreads]
    means["high"] = [spread.high for spread in spreads]
    standings = confidence.standings(cost)
    means["decided"] = [standings[str(name)].decided for name in means.index]
    means = means.sort_values(["x", "y"])
    if means.empty:
        return Panel(means, means)
    trials = frame.dropna(subset=[accuracy, cost])
    seeds = pd.DataFrame(
        {
            "architecture_id": trials["architecture_id"],
            "x": trials[cost],
            "y": trials[accuracy],
            "front": trials["architecture_id"].isin(front),
        }
    ).drop_duplicates()
    several = seeds.groupby("architecture_id")["y"].transform("size") > 1
    return Panel(means, seeds[several])


def tradeoff_labels(frame: pd.DataFrame, *, counted: bool) -> dict[str, str]:
    """`λ 0.1, 0.3` for each architecture: the tradeoffs that led to it.

    Args:
        frame: what `results_frame` returned.
        counted: say `0.3 (2/3)` where only two of three seeds led to it; without, of many tradeoffs only
            the ends are named.
    """
    trials = frame.groupby("tradeoff").size()
    labels = {}
    for name, own in frame.groupby("architecture_id"):
        counts = own.groupby("tradeoff").size()
        parts = [f"{value:g}" for value in counts.index]
        if counted:
            shares = [f" ({counts[value]}/{trials[value]})" for value in counts.index]
            split = (counts < trials[counts.index]).tolist()
            parts = [part + share * some for part, share, some in zip(parts, shares, split, strict=True)]
        elif len(parts) > 4:
            parts = [f"{parts[0]} … {parts[-1]} ({len(parts)} values)"]
        labels[str(name)] = "λ " + ", ".join(parts)
    return labels


def interval_note(frame: pd.DataFrame, confidence: Confidence) -> str:
    """What the bars of the points are, such as `bars: 95 % over seeds`; empty where there are none."""
    methods = {confidence.spread(name).method for name in confidence} - {"none"}
    if not methods:
        return ""
    over = {"seeds": "seeds", "users": "users (one seed)"}
    return f"bars: {LEVEL:.0%} over " + " or ".join(over[method] for method in sorted(methods))


def seeds_disagree(frame: pd.DataFrame) -> bool:
    """Whether some tradeoff led to different architectures in different seeds."""
    return bool((frame.groupby("tradeoff")["architecture_id"].nunique() > 1).any())


def describe_counts(frame: pd.DataFrame) -> str:
    """`6 lambdas, 3 seeds, 4 architectures`."""
    numbers = [
        (frame["tradeoff"].nunique(), "lambda"),
        (frame["seed"].nunique(), "seed"),
        (frame["architecture_id"].nunique(), "architecture"),
    ]
    return ", ".join(f"{number} {noun}{'s' * (number > 1)}" for number, noun in numbers)
