"""Accuracy with bootstrap intervals over users.

Legend: Q questions of a split, U users, C kinds of users, R resamples, M metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from easrec.data.sequences import Int64s, Split, SplitData
from easrec.evaluation.protocols import Scorer, protocol_ranks
from easrec.evaluation.ranking import ranking_metrics

LEVEL = 0.95
RESAMPLES = 10_000
SEED = 0
_CUTOFF = 10
_MOST_COUNTS = 20_000_000
"""Numbers of a table of resamples held at once: 160 MB."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions, and how far it may be off for other users like these."""

    value: float
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end."""


def accuracy_estimates(
    scorer: Scorer, data: SplitData, *, max_length: int, batch_size: int = 256
) -> dict[str, Estimate]:
    """Every metric of validation and test under every protocol, as `valid/unseen/ndcg_at_10`.

    Args:
        scorer: see `protocol_ranks`; on a CPU.
        data: the split data.
        max_length: N, the most recent items that the scorer is given.
        batch_size: users scored at once; it changes no figure.
    """
    found: dict[str, Estimate] = {}
    splits: tuple[Split, ...] = ("valid", "test")
    for split in splits:
        ranks = protocol_ranks(scorer, data, split, max_length=max_length, batch_size=batch_size)
        for protocol, values in ranks.items():
            estimates = bootstrap(values, data.targets(split).rows)
            found |= {f"{split}/{protocol}/{name}": estimate for name, estimate in estimates.items()}
    return found


def bootstrap(
    ranks: Int64s,
    users: Int64s,
    *,
    k: int = _CUTOFF,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, Estimate]:
    """Percentile intervals of `ranking_metrics` when users are drawn anew with replacement.

    Users whose questions earned the same are of one kind, and how often each kind comes up in a resample is
    multinomial. With one question for each user there are k + 1 kinds, so the cost does not grow with U.

    Args:
        ranks: from 1, (Q,).
        users: whose question it is, (Q,); a user's questions are drawn together.
        k: the cut-off of the metrics.
        level: probability that the interval covers.
        resamples: R.
        seed: of the resamples.

    Returns:
        An estimate by metric name.
    """
    means = ranking_metrics(ranks, k)
    earned = earnings(ranks, k)
    _, index = np.unique(users, return_inverse=True)
    per_user = np.stack(
        [np.bincount(index, weights=column) for column in (np.ones(len(ranks)), *earned.values())], 1
    ).astype(np.float64)
    low, high = resampled_interval(per_user, level=level, resamples=resamples, seed=seed)
    return {
        name: Estimate(value, float(low[column]), float(high[column]))
        for column, (name, value) in enumerate(means.items())
    }


def earnings(ranks: Int64s, k: int = _CUTOFF) -> dict[str, npt.NDArray[np.float64]]:
    """What each question contributes to the metrics of `ranking_metrics`, which are means of these.

    >>> earnings(np.array([1, 2, 30]))["mrr_at_10"].tolist()
    [1.0, 0.5, 0.0]

    Args:
        ranks: from 1, (Q,).
        k: the cut-off of the metrics.

    Returns:
        By metric name, (Q,).
    """
    # What a rank is worth, from 1 to k, and beyond: the metrics' own definition, one rank at a time.
    worth = [ranking_metrics(np.array([rank]), k) for rank in range(1, k + 2)]
    index = np.minimum(ranks, k + 1) - 1
    return {name: np.array([values[name] for values in worth])[index] for name in worth[0]}


def resampled_interval(
    per_user: npt.NDArray[np.float64],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Percentile intervals of means over questions when users are drawn anew with replacement.

    Args:
        per_user: of each user the number of questions, then the sums of what they earned, (U, 1 + M).
        level: probability that an interval covers.
        resamples: R.
        seed: of the resamples.

    Returns:
        The lower and the upper ends, (M,) each.
    """
    kinds, frequencies = np.unique(per_user.astype(np.float64), axis=0, return_counts=True)
    resampled = _resampled_means(kinds, frequencies, resamples, np.random.default_rng(seed))
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _resampled_means(
    kinds: npt.NDArray[np.float64],
    frequencies: npt.NDArray[np.integer[Any]],
    resamples: int,
    generator: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """The means of R resamples, (R, M), from questions and sums of each kind of user, (C, 1 + M)."""
    num_users = int(frequencies.sum())
    chunk = max(1, _MOST_COUNTS // len(kinds))
    means = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        draws = generator.multinomial(num_users, frequencies / num_users, size=size)  # (R, C)
        totals = draws @ kinds
        means.append(totals[:, 1:] / totals[:, :1])
    return np.concatenate(means)


def largest_difference(
    estimates: Mapping[str, Estimate], recorded: Mapping[str, float]
) -> tuple[str, float] | None:
    """The metric in which two evaluations differ most, and by how much; None where they share none."""
    shared = {name: abs(estimates[name].value - recorded[name]) for name in estimates if name in recorded}
    if not shared:
        return None
    name = max(shared, key=lambda name: shared[name])
    return name, shared[name]
