"""What the data can tell apart: intervals of configurations, and which of two is better.

A configuration is an architecture, its accuracy the mean over its retrainings (`sweeps.pareto`). Two things
blur that mean. Another seed would train another network: over several seeds the interval is Student's. Other
users would ask other questions: with one seed the interval is a bootstrap over users. Which of two is better
is a bootstrap over users too, of what both earned from the same users, averaged over seeds.

Legend: U users.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from sweeps.intervals import LEVEL, RESAMPLES, SEED, resampled_interval
from sweeps.pareto import ACCURACY, configurations
from sweeps.results import TrialRecord
from sweeps.user_ranks import RANKS, Gains, mean_gains, read_gains

Method = Literal["seeds", "users", "none"]
"""What an interval is over; `none`: nothing is known."""

_MOST_DRAWS = 200_000_000
"""Numbers drawn for one interval over users: some seconds. With more users there are fewer resamples."""
_FEWEST_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Spread:
    """The accuracy of a configuration, and how far it may be off."""

    mean: float
    """Over its retrainings."""
    seeds: tuple[int, ...]
    """Seeds that it was retrained with."""
    deviation: float
    """Standard deviation over seeds; NaN with one."""
    low: float
    """Lower end of the interval at 95 %; NaN where there is none."""
    high: float
    """Upper end."""
    method: Method
    """What the interval is over."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better one configuration is than another."""

    difference: float
    """Accuracy of the first less that of the second."""
    low: float
    """Lower end of the difference's interval at 95 %; NaN where there is none."""
    high: float
    """Upper end."""
    method: Method
    """`users`: paired bootstrap over users, of accuracies averaged over seeds. `seeds`: Student's interval of
    the differences of equal seeds."""
    num_seeds: int
    """The smaller number of seeds of the two: with one, another training may turn the difference round."""

    @property
    def separated(self) -> bool:
        """Whether the data tell which one is better."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a configuration stands beside the front of (mean accuracy up, mean cost down)."""

    on_front: bool
    """Whether none is better in mean accuracy at the same or a lower mean cost."""
    rival: str | None
    """Of a point on the front its neighbour that costs less; of any other the most accurate one on the front
    that costs no more. None for the cheapest of the front, which is there whatever its accuracy."""
    comparison: Comparison | None
    """With the rival."""

    @property
    def decided(self) -> bool:
        """Whether the data tell the configuration and its rival apart."""
        return self.comparison is None or self.comparison.separated


class Confidence:
    """Intervals and comparisons of the configurations of a table of trials."""

    def __init__(
        self, frame: pd.DataFrame, gains: Mapping[str, Gains] | None = None, *, accuracy: str = ACCURACY
    ) -> None:
        """Prepare; intervals are computed when they are asked for, and kept.

        Args:
            frame: one row per trial with trial_id, architecture_id, seed and the accuracy, as `results_frame`
                makes it.
            gains: by trial_id, what its network earned from each user, as far as that is known.
            accuracy: the metric that chooses.
        """
        self.accuracy = accuracy
        self._frame = frame
        trials = frame.dropna(subset=[accuracy])
        # As in `configurations`: of one seed and architecture, equal accuracies are of one retraining.
        self._retrainings: dict[str, pd.DataFrame] = {
            str(name): own.drop_duplicates(["seed", accuracy])
            for name, own in trials.groupby("architecture_id")
        }
        self._gains = dict(gains or {})
        self.spread = cache(self._spread)
        self.compare = cache(self._compare)

    @classmethod
    def of_records(
        cls, frame: pd.DataFrame, records: Sequence[TrialRecord], *, accuracy: str = ACCURACY
    ) -> "Confidence":
        """With what the ranks among the trials' files say."""
        read = cache(read_gains)
        found = {
            record.trial_id: gains
            for record in records
            if RANKS in record.artifacts and (gains := read(record.artifacts[RANKS], accuracy)) is not None
        }
        return cls(frame, found, accuracy=accuracy)

    def __iter__(self) -> Iterator[str]:
        """The architecture ids."""
        return iter(self._retrainings)

    def _spread(self, architecture_id: str) -> Spread:
        """The accuracy of a configuration with its interval; `KeyError` if no trial derived it."""
        own = self._retrainings[architecture_id]
        mean = float(own[self.accuracy].mean())
        by_seed = own.groupby("seed")[self.accuracy].mean()
        seeds = tuple(int(seed) for seed in by_seed.index)
        if len(seeds) > 1:
            deviation = float(by_seed.std())
            half = student_half_width(by_seed.to_numpy())
            return Spread(mean, seeds, deviation, mean - half, mean + half, "seeds")
        gains = self._mean_gains(architecture_id)
        if gains is None:
            return Spread(mean, seeds, math.nan, math.nan, math.nan, "none")
        low, high = users_interval(gains.questions, gains.earned)
        return Spread(mean, seeds, math.nan, low, high, "users")

    def _compare(self, first: str, second: str) -> Comparison:
        """How much better one configuration is than another; `KeyError` if no trial derived one of them."""
        one, other = self._retrainings[first], self._retrainings[second]
        difference = float(one[self.accuracy].mean() - other[self.accuracy].mean())
        num_seeds = min(one["seed"].nunique(), other["seed"].nunique())
        ours, theirs = self._mean_gains(first), self._mean_gains(second)
        if ours is not None and theirs is not None and ours.same_questions(theirs):
            low, high = users_interval(ours.questions, ours.earned - theirs.earned)
            return Comparison(difference, low, high, "users", num_seeds)
        by_seed = [rows.groupby("seed")[self.accuracy].mean() for rows in (one, other)]
        paired = (by_seed[0] - by_seed[1]).dropna().to_numpy()
        if len(paired) > 1:
            half = student_half_width(paired)
            difference = float(paired.mean())
            return Comparison(difference, difference - half, difference + half, "seeds", len(paired))
        return Comparison(difference, math.nan, math.nan, "none", num_seeds)

    def standings(self, cost: str) -> dict[str, Standing]:
        """Where each configuration that has a cost stands, by architecture_id, cheapest first."""
        means = configurations(self._frame, [cost], accuracy=self.accuracy).dropna()
        # Of equal cost the more accurate first, so that who comes after it is beaten.
        order = means.sort_values([cost, self.accuracy], ascending=[True, False], kind="stable")
        accuracies = {str(name): float(value) for name, value in order[self.accuracy].items()}
        costs = {str(name): float(value) for name, value in order[cost].items()}
        standings: dict[str, Standing] = {}
        best: str | None = None
        for name in accuracies:
            if best is None:
                standings[name] = Standing(True, None, None)
                best = name
                continue
            ours, theirs = accuracies[name], accuracies[best]
            on_front = ours > theirs or (ours == theirs and costs[name] == costs[best])
            standings[name] = Standing(on_front, best, self.compare(name, best))
            if on_front:
                best = name
        return standings

    def _mean_gains(self, architecture_id: str) -> Gains | None:
        """What a configuration earned from each user, averaged over retrainings; None unless all is known."""
        rows = self._retrainings[architecture_id]
        # The trials that share a retraining share its ranks, though one of them may have been recorded
        # before ranks were.
        found: list[Gains] = []
        trials = self._frame[self._frame["architecture_id"] == architecture_id]
        for seed, value in zip(rows["seed"], rows[self.accuracy], strict=True):
            same = trials[(trials["seed"] == seed) & (trials[self.accuracy] == value)]
            known = [self._gains[name] for name in same["trial_id"] if name in self._gains]
            if not known:
                return None
            found.append(known[0])
        return mean_gains(found)


def student_half_width(values: npt.NDArray[np.float64]) -> float:
    """Half of Student's interval of a mean; values are of independent seeds, two or more."""
    quantile = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2))
    return quantile * float(values.std(ddof=1)) / math.sqrt(len(values))


def users_interval(
    questions: npt.NDArray[np.float64],
    earned: npt.NDArray[np.float64],
) -> tuple[float, float]:
    """The interval of a mean over questions when users are drawn anew; (U,) and (U,)."""
    per_user = np.stack([questions, earned], axis=1)
    resamples = min(RESAMPLES, max(_FEWEST_RESAMPLES, _MOST_DRAWS // len(per_user)))
    low, high = resampled_interval(per_user, resamples=resamples, seed=SEED)
    return float(low[0]), float(high[0])
