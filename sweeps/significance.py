"""Whether differences are more than chance: paired tests over users and over repeated measurements.

The tests here go by what sweeps keep: sums of each user's questions, whose means are ratios where users were
asked different numbers of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

from sweeps.confidence import student_half_width, users_interval
from sweeps.user_ranks import Gains

ALPHA = 0.05
"""A corrected p-value below it counts as told apart."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far the first of two is from the second."""

    value: float
    """First less second."""
    low: float
    """Lower end of the interval at 95 %, of this comparison alone; NaN where there is none."""
    high: float
    """Upper end."""
    p_value: float
    """Two-sided, uncorrected; NaN where nothing can be said."""


def over_users(first: Gains, second: Gains) -> Difference:
    """Two networks by what they earned from the same users.

    The p-value is that of Student's paired test over users. Where users were asked different numbers of
    questions the metric is a ratio of sums, and the test is that of its linear form; with one question each
    the two are the same. The interval is the bootstrap over users, as everywhere in sweeps.

    Raises:
        ValueError: they were not asked the same questions.
    """
    if not first.same_questions(second):
        raise ValueError("two networks are compared by the same questions to the same users")
    earned, questions = first.earned - second.earned, first.questions
    value = float(earned.sum() / questions.sum())
    residuals = earned - value * questions
    users = len(questions)
    p_value = math.nan
    if users > 1:
        error = math.sqrt(users / (users - 1) * float((residuals**2).sum())) / float(questions.sum())
        p_value = _two_sided(value, error, users - 1)
    low, high = users_interval(questions, earned)
    return Difference(value, low, high, p_value)


def over_repeats(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> Difference:
    """Two series of the same length, value i of both measured one after the other; Student's paired test."""
    differences = first - second
    value = float(differences.mean())
    if len(differences) < 2:
        return Difference(value, math.nan, math.nan, math.nan)
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    half = student_half_width(differences)
    return Difference(value, value - half, value + half, _two_sided(value, error, len(differences) - 1))


def _two_sided(value: float, error: float, freedom: int) -> float:
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * stdtr(freedom, -abs(value) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: to reject those below a level errs once or more with at most that level.

    >>> [round(value, 4) for value in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]

    Raises:
        ValueError: a p-value is not in [0, 1].
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values must lie in [0, 1], got {list(p_values)}")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1)
    return [float(value) for value in adjusted]


def corrected(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of the p-values that are known; NaN is no comparison, and stays NaN.

    >>> [round(p, 3) for p in corrected([0.01, math.nan, 0.04])]
    [0.02, nan, 0.04]
    """
    known = [at for at, p_value in enumerate(p_values) if not math.isnan(p_value)]
    found = [math.nan] * len(p_values)
    for at, p_value in zip(known, holm([p_values[at] for at in known]), strict=True):
        found[at] = p_value
    return found
