"""Which of several methods is better, as far as the same users can tell.

What a method earned from a user is averaged over its seeds first, so that seeds are no extra users; then the
differences of two methods are tested user by user.

Legend: S seeds of a method, U users, C comparisons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats

from easrec.errors import InputError

Floats = npt.NDArray[np.float64]
Test = Literal["wilcoxon", "t"]

RESAMPLES = 9_999


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedComparison:
    """A method beside another one."""

    difference: float
    """Mean of the first less that of the second, over users."""
    low: float
    """Lower end of the difference's bootstrap interval at 95 %, over users."""
    high: float
    """Upper end."""
    p_value: float
    """Two-sided, of no difference."""
    adjusted_p_value: float
    """After Holm's correction for all comparisons that were made together; otherwise `p_value`."""
    users: int
    """U."""
    seeds: tuple[int, int]
    """S of both."""


def compare(
    first: npt.ArrayLike, second: npt.ArrayLike, *, test: Test = "wilcoxon", seed: int = 0
) -> PairedComparison:
    """Compare what two methods earned from the same users.

    Args:
        first: a metric of each user, such as NDCG@10, by seed: (S, U); the users in the same order in both.
        second: (S', U).
        test: `wilcoxon`: signed ranks of the differences, those of zero split between the signs (Pratt).
            `t`: Student's of the mean difference.
        seed: of the bootstrap.

    Raises:
        InputError: shapes do not agree, a value is not finite, or there are fewer than two users.
    """
    if test not in get_args(Test):
        raise InputError(f"test must be one of {get_args(Test)}, got {test!r}")
    one, other = (_by_seed(values) for values in (first, second))
    if one.shape[1] != other.shape[1]:
        raise InputError(
            f"both methods must have been asked by the same users, got {one.shape[1]} and {other.shape[1]}"
        )
    differences = one.mean(axis=0) - other.mean(axis=0)
    mean = float(differences.mean())
    low = high = mean
    p_value = 1.0
    if differences.any():
        if np.ptp(differences) > 0:
            interval = stats.bootstrap(
                (differences,),
                np.mean,
                n_resamples=RESAMPLES,
                batch=max(1, 10_000_000 // len(differences)),
                method="percentile",
                rng=np.random.default_rng(seed),
            ).confidence_interval
            low, high = float(interval.low), float(interval.high)
        p_value = _p_value(differences, test)
    return PairedComparison(
        difference=mean,
        low=low,
        high=high,
        p_value=p_value,
        adjusted_p_value=p_value,
        users=len(differences),
        seeds=(len(one), len(other)),
    )


def compare_with_all(
    reference: npt.ArrayLike,
    others: Mapping[str, npt.ArrayLike],
    *,
    test: Test = "wilcoxon",
    seed: int = 0,
) -> dict[str, PairedComparison]:
    """`compare` of a method with each of some others, corrected by Holm for there being several.

    Returns:
        By the others' names, in their order; a positive difference speaks for `reference`.
    """
    found = {name: compare(reference, values, test=test, seed=seed) for name, values in others.items()}
    adjusted = holm([comparison.p_value for comparison in found.values()])
    return {
        name: PairedComparison(
            difference=one.difference,
            low=one.low,
            high=one.high,
            p_value=one.p_value,
            adjusted_p_value=p_value,
            users=one.users,
            seeds=one.seeds,
        )
        for (name, one), p_value in zip(found.items(), adjusted, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: to reject those below a level errs once or more with at most that level.

    >>> [round(value, 4) for value in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]

    Raises:
        InputError: a p-value is not in [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"p-values must lie in [0, 1], got {list(p_values)}")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1)
    return [float(value) for value in adjusted]


def _by_seed(values: npt.ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not len(array) or array.shape[1] < 2:
        raise InputError(
            f"a method's metric must be (seeds, users), with two users at least, got {array.shape}"
        )
    if not np.isfinite(array).all():
        raise InputError("a method's metric must be finite for every user")
    return array


def _p_value(differences: Floats, test: Test) -> float:
    if test == "t":
        if np.ptp(differences) == 0:
            return 0.0  # no spread at all: the statistic is infinite
        return float(stats.ttest_1samp(differences, 0.0).pvalue)
    return float(stats.wilcoxon(differences, zero_method="pratt").pvalue)
