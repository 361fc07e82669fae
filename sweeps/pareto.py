"""Which networks no other network beats, and how much of the objective space they cover.

A network is judged as a configuration: an architecture whose accuracy and cost are means over seeds.
Trials of one seed that derived the same architecture share one retraining, which counts once.
"""

from collections.abc import Sequence

import moocore
import numpy as np
import pandas as pd

ACCURACY = "valid/unseen/ndcg_at_10"
"""The metric that chooses: NDCG@10 of validation, items already seen excluded."""


def configurations(frame: pd.DataFrame, metrics: Sequence[str], *, accuracy: str = ACCURACY) -> pd.DataFrame:
    """The mean of metrics for each architecture, over its distinct retrainings.

    Args:
        frame: results, one row per trial, with architecture_id, seed and the accuracy.
        metrics: their names; one that the frame lacks is one that nobody measured.
        accuracy: name of the metric that trials must have to count.

    Returns:
        The accuracy, then the other metrics in the order given; architecture_id as index. NaN where no
        trial has a value.
    """
    if accuracy not in frame.columns:
        raise ValueError(f"the results have no metric {accuracy!r} to judge accuracy by")
    names = [accuracy, *(name for name in metrics if name != accuracy)]
    values = frame.reindex(columns=names).astype("float64")
    trials = pd.concat([frame[["architecture_id", "seed"]], values], axis="columns").dropna(subset=[accuracy])
    # One retraining gives one accuracy, to the last digit; two of the same seed and architecture
    # (each trial with a transfer of its own) differ in it.
    retrainings = trials.groupby(["architecture_id", "seed", accuracy], as_index=False).mean()
    return retrainings.groupby("architecture_id")[names].mean()


def pareto_flags(frame: pd.DataFrame, *, accuracy: str = ACCURACY, cost: str = "flops") -> "pd.Series[bool]":
    """Whether each trial's architecture is on the front of (mean accuracy up, mean cost down).

    Equal points are all on the front or all off it. A trial that lacks either metric is never on the
    front and beats nobody. Other arguments as for `hypervolume`.

    >>> frame = pd.DataFrame({"architecture_id": ["small", "large", "waste"], "seed": 0,
    ...                       ACCURACY: [0.08, 0.10, 0.09], "flops": [1e6, 2e6, 3e6]})
    >>> pareto_flags(frame).tolist()
    [True, True, False]
    """
    means = configurations(frame, [cost], accuracy=accuracy).dropna()
    flags = moocore.is_nondominated(means.to_numpy(), maximise=[True, False], keep_weakly=True)
    front = set(means.index[flags])
    has_both = frame[accuracy].notna()
    has_both &= frame[cost].notna() if cost in frame.columns else False
    return frame["architecture_id"].isin(front) & has_both


def hypervolume(
    frame: pd.DataFrame,
    *,
    reference: tuple[float, float],
    accuracy: str = ACCURACY,
    cost: str = "flops",
) -> float:
    """The area that the configurations dominate, bounded by a reference point.

    Args:
        frame: as for `configurations`.
        reference: the (accuracy, cost) just worth having: (0, the cost of the full-size network), say.
            A configuration that is not better in both adds nothing.
        accuracy: name of the metric to be high.
        cost: name of the metric to be low.

    Returns:
        The area, in units of accuracy times cost; compare areas of equal reference points only.
    """
    if not np.isfinite(reference).all():
        raise ValueError(f"a reference point must be finite, got {reference}")
    means = configurations(frame, [cost], accuracy=accuracy).dropna()
    return float(moocore.hypervolume(means.to_numpy(), ref=reference, maximise=[True, False]))
