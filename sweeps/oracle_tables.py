"""How good a search is, judged by a table of all architectures of its space.

A table has one row per architecture and seed: `architecture_id`, `seed`, `flops`, the accuracy after
retraining, the accuracy read off the warm supernet (`SUPERNET`) and what the retraining cost (`COST`).
Architectures are judged by their means over seeds, as everywhere.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import moocore
import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from sweeps.pareto import configurations

SUPERNET = "supernet_ndcg_at_10"
"""Accuracy of an architecture with the weights of the warm supernet, not trained any further."""
COST = "retrain_flops"
"""FLOPs spent on the retraining of an architecture."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of a whole space."""

    means: pd.DataFrame
    """Accuracy, flops, `SUPERNET` and `COST` of each architecture, means over seeds; architecture_id is the
    index, the cheapest comes first."""
    accuracy: str
    """Name of the column that judges."""
    reference: tuple[float, float]
    """The worst accuracy and the largest FLOPs of the space: hypervolumes are bounded by it."""

    @classmethod
    def of(cls, frame: pd.DataFrame, accuracy: str) -> "Truth":
        """From the table of all architectures and seeds."""
        means = configurations(frame, ["flops", SUPERNET, COST], accuracy=accuracy)
        means = means.sort_values(["flops", accuracy], ascending=[True, False])
        return cls(means, accuracy, (float(means[accuracy].min()), float(means["flops"].max())))

    @property
    def front(self) -> list[str]:
        """The architectures that no other beats in accuracy and FLOPs, the cheapest first."""
        return self.front_of(list(self.means.index))

    def front_of(self, architectures: Collection[str]) -> list[str]:
        """Those of some architectures that none of them beats, the cheapest first."""
        chosen = self.means.loc[self.means.index.isin(architectures)]
        flags = moocore.is_nondominated(
            chosen[[self.accuracy, "flops"]].to_numpy(), maximise=[True, False], keep_weakly=True
        )
        return list(chosen.index[flags])

    def hypervolume_share(self, architectures: Collection[str]) -> float:
        """The part of the true front's hypervolume that some architectures cover, in [0, 1].

        NaN where the true front covers nothing: a space of one architecture, or of equal accuracies.
        """
        whole = self._hypervolume(list(self.means.index))
        return self._hypervolume(architectures) / whole if whole > 0 else float("nan")

    def _hypervolume(self, architectures: Collection[str]) -> float:
        chosen = self.means.loc[self.means.index.isin(architectures), [self.accuracy, "flops"]]
        if chosen.empty:
            return 0.0
        return float(moocore.hypervolume(chosen.to_numpy(), ref=self.reference, maximise=[True, False]))

    def regret(self, architecture: str) -> float:
        """Accuracy lost at equal FLOPs: the best of the architectures that cost no more, less this one's."""
        own = self.means.loc[architecture]
        affordable = self.means[self.means["flops"] <= own["flops"]]
        return float(affordable[self.accuracy].max() - own[self.accuracy])

    def mean_regret(self, architectures: Collection[str]) -> float:
        """The mean of `regret` over the front of some architectures: what one would choose from."""
        return float(np.mean([self.regret(name) for name in self.front_of(architectures)]))

    def rank_correlation(self) -> tuple[float, float]:
        """Kendall's tau between accuracies read off the supernet and after retraining, and its p-value.

        NaN where there are fewer than two architectures, or all have the same accuracy.
        """
        found = kendalltau(self.means[SUPERNET], self.means[self.accuracy])
        return float(found.statistic), float(found.pvalue)


@dataclass(frozen=True, slots=True)
class RandomSearch:
    """What random search finds for the same FLOPs: means and quantiles over many draws."""

    num_architectures: float
    """How many retrainings the budget pays for, on average."""
    share: float
    """Mean of `Truth.hypervolume_share`."""
    share_low: float
    share_high: float
    """Its 5 % and 95 % quantiles."""
    regret: float
    """Mean of `Truth.mean_regret`."""
    beaten: float
    """The part of the draws whose share is smaller than that of the search; ties count half."""


def random_search(
    truth: Truth, budget: float, *, share: float, draws: int = 2000, seed: int = 0
) -> RandomSearch:
    """Retrain architectures drawn without replacement until a budget is spent.

    What would exceed the budget is not retrained; the first is, whatever it costs, so that there is a result.

    Args:
        truth: what each retraining would give and cost.
        budget: FLOPs that the search spent after the warm-up, for one seed.
        share: of the hypervolume, that the search found.
        draws: how many random searches.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    names, costs = list(truth.means.index), truth.means[COST].to_numpy()
    counts, shares, regrets = [], [], []
    known: dict[frozenset[str], tuple[float, float]] = {}
    for _ in range(draws):
        order = rng.permutation(len(names))
        affordable = max(int(np.searchsorted(np.cumsum(costs[order]), budget, side="right")), 1)
        chosen = frozenset(names[at] for at in order[:affordable])
        if chosen not in known:
            known[chosen] = truth.hypervolume_share(chosen), truth.mean_regret(chosen)
        counts.append(affordable)
        shares.append(known[chosen][0])
        regrets.append(known[chosen][1])
    found = np.array(shares)
    low, high = np.quantile(found, [0.05, 0.95])
    return RandomSearch(
        num_architectures=float(np.mean(counts)),
        share=float(found.mean()),
        share_low=float(low),
        share_high=float(high),
        regret=float(np.mean(regrets)),
        beaten=float(np.mean((found < share) + 0.5 * (found == share))),
    )


def best_by_supernet(truth: Truth, count: int) -> Sequence[str]:
    """The `count` architectures that a front read off the supernet would name, best first by its own ranks.

    Fronts are peeled off one after the other (accuracy read off the supernet up, FLOPs down).
    """
    ranks = moocore.pareto_rank(truth.means[[SUPERNET, "flops"]].to_numpy() * np.array([-1.0, 1.0]))
    order = np.lexsort((-truth.means[SUPERNET].to_numpy(), ranks))
    return [str(name) for name in truth.means.index[order[:count]]]
