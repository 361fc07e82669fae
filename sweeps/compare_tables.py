"""The figures of a comparison: means and deviations of methods, and what tells them apart.

Legend: S seeds, R repeated measurements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import moocore
import numpy as np
import pandas as pd

from sweeps.records import MEASURED
from sweeps.significance import ALPHA, Difference, corrected, over_repeats, over_users
from sweeps.summary import counted
from sweeps.user_ranks import Gains, gains_of, mean_gains

ACCURACIES = ("recall_at_10", "mrr_at_10", "ndcg_at_10")
SPLITS = ("valid", "test")
PROTOCOLS_SHOWN = ("unseen", "full", "pop100")
"""Protocols that a comparison has a table of; what the paper's figures fit is pop100."""

JUDGED_COSTS = (
    "inference_s",
    "peak_memory_mib",
    "train_peak_memory_mib",
    "latency_ms_p50",
    "served_ms_p50",
)
"""Costs that are tested for differences: 95th percentiles and updates of states are shown alone."""


@dataclass(frozen=True, slots=True)
class Contest:
    """All that has been found, as tables."""

    trials: pd.DataFrame
    """A row per method and seed: `method`, `seed`, `architecture_id` and metrics."""
    timings: pd.DataFrame
    """A row per method, seed and `measurement`: `session`, which those have in common that were measured by
    one run of the program on one machine, and `sweeps.records.MEASURED`. May be empty."""
    gains: Mapping[str, Mapping[str, Gains]]
    """Method -> metric -> what it earned from each user, averaged over seeds."""

    @property
    def methods(self) -> list[str]:
        """Those of which a seed has finished, in the order of the trials."""
        return list(dict.fromkeys(self.trials["method"]))

    @property
    def num_seeds(self) -> int:
        """S."""
        return int(self.trials["seed"].nunique())

    @property
    def num_measurements(self) -> int:
        """R; 0 where nothing was measured."""
        return 0 if self.timings.empty else int(self.timings["measurement"].nunique())

    def seeds(self, method: str) -> frozenset[int]:
        """Those of which a method has a result."""
        return frozenset(int(seed) for seed in self.trials.loc[self.trials["method"] == method, "seed"])

    def complete(self, method: str) -> bool:
        """Whether a method has a result of every seed that any has."""
        return len(self.seeds(method)) == self.num_seeds

    def named(self, labels: Mapping[str, str]) -> dict[str, str]:
        """What methods are called, with the number of their seeds where they lack some."""
        return {
            name: label
            if self.complete(name) or name not in self.methods
            else f"{label}, {len(self.seeds(name))} of {counted(self.num_seeds, 'seed')}"
            for name, label in labels.items()
        }

    def protocols(self) -> list[str]:
        """The protocols that the data set allows, of `PROTOCOLS_SHOWN`."""
        return [name for name in PROTOCOLS_SHOWN if f"test/{name}/ndcg_at_10" in self.trials]

    def series(self, method: str, cost: str) -> "pd.Series[float]":
        """A measured cost, means over seeds, by the number of the measurement.

        Measurements that lack the network of a seed are left out: their means would be of other networks.
        """
        rounds = self.timings[self.timings["method"] == method].groupby("measurement")
        means: pd.Series[float] = rounds[cost].mean()
        return means[rounds["seed"].nunique() == len(self.seeds(method))]

    def paired(self, method: str, reference: str, cost: str) -> pd.DataFrame:
        """A measured cost of two methods, means over seeds, as columns `ours` and `theirs`.

        A row is a measurement that both have of every seed, in the same session: what was measured on another
        day, or on another machine, does not tell two networks apart.
        """
        columns = ["seed", "measurement", "session"]
        ours, theirs = (
            self.timings.loc[self.timings["method"] == name, [*columns, cost]] for name in (method, reference)
        )
        both = ours.merge(theirs, on=columns, suffixes=("_ours", "_theirs"))
        rounds = both.groupby("measurement")
        means = rounds[[f"{cost}_ours", f"{cost}_theirs"]].mean().set_axis(["ours", "theirs"], axis=1)
        whole = (rounds["seed"].nunique() == self.num_seeds) & (rounds["session"].nunique() == 1)
        return means[whole]

    def summary(self) -> pd.DataFrame:
        """A row per method: `num_seeds`, the mean of every metric, and deviations as NAME_sd.

        Deviations are over seeds, where there are several, and those of what was measured over measurements.
        """
        names = [
            str(name)
            for name in self.trials.columns
            if name not in ("method", "seed", "architecture_id", "trial_id")
            and pd.api.types.is_numeric_dtype(self.trials[name])
        ]
        groups = self.trials.groupby("method", sort=False)
        table = groups[names].mean()
        table.insert(0, "num_seeds", groups["seed"].nunique())
        table.insert(
            1, "architectures", groups["architecture_id"].agg(lambda ids: ", ".join(dict.fromkeys(ids)))
        )
        deviations = groups[names].std()
        for name in names:
            if (deviations[name] > 0).any():
                table[f"{name}_sd"] = deviations[name]
        for cost in MEASURED if not self.timings.empty else ():
            # What was not measured is NaN.
            series = {method: self.series(method, cost) for method in self.methods}
            table[cost] = pd.Series({method: values.mean() for method, values in series.items()})
            if self.num_measurements > 1:
                table[f"{cost}_sd"] = pd.Series({method: values.std() for method, values in series.items()})
        return table.loc[self.methods].reset_index()


def on_front(summary: pd.DataFrame, accuracy: str, cost: str) -> list[str]:
    """Methods that no other method beats in mean accuracy and mean cost; those that tie are all among them.

    Args:
        summary: a row per method, its name as index; methods that lack one of both are on no front.
        accuracy: the higher the better.
        cost: the lower the better.

    >>> frame = pd.DataFrame({"ndcg": [0.1, 0.2, 0.1], "flops": [1.0, 2.0, 3.0]}, index=["a", "b", "c"])
    >>> on_front(frame, "ndcg", "flops")
    ['a', 'b']
    """
    known = summary.dropna(subset=[accuracy, cost])
    if known.empty:
        return []
    points = known[[accuracy, cost]].to_numpy(dtype=np.float64)
    flags = moocore.is_nondominated(points, maximise=[True, False], keep_weakly=True)
    return [str(name) for name in known.index[flags]]


def read_contest_gains(
    paths: Mapping[str, Sequence[Path]], metrics: Sequence[str]
) -> dict[str, dict[str, Gains]]:
    """What `Contest.gains` holds, from files of ranks.

    Args:
        paths: method -> the files of its seeds.
        metrics: such as `test/unseen/ndcg_at_10`; one of a protocol that the data do not allow is left out.
    """
    found: dict[str, dict[str, Gains]] = {}
    for method, files in paths.items():
        tables = [pd.read_parquet(path) for path in files]
        found[method] = {}
        for metric in metrics:
            gains = [gains_of(table, metric) for table in tables]
            known = [one for one in gains if one is not None]
            if known and len(known) == len(gains) and (mean := mean_gains(known)) is not None:
                found[method][metric] = mean
    return found


def accuracy_metrics(protocols: Sequence[str]) -> list[str]:
    """The columns of the tables of accuracy, such as `valid/unseen/recall_at_10`."""
    return [f"{split}/{protocol}/{name}" for protocol in protocols for split in SPLITS for name in ACCURACIES]


def differences(contest: Contest, reference: str, methods: Sequence[str] | None = None) -> pd.DataFrame:
    """Every method against one of them, in every accuracy and in `JUDGED_COSTS`.

    The comparisons of a table (the accuracies under one protocol, or the costs) are one family for Holm's
    correction. A method that lacks a seed is not compared: what it has are means over others.

    Args:
        contest: what was found.
        reference: the method that the others are compared with.
        methods: some of the methods; left out: all.

    Returns:
        Columns `table` (a protocol, or `costs`), `metric`, `method`, `reference`, `difference` (method less
        reference), `low`, `high`, `p`, `p_holm` and `told_apart`.
    """
    others = [name for name in methods or contest.methods if name != reference]
    rows = []
    if reference not in contest.methods:
        others = []
    for table in (*contest.protocols(), "costs"):
        metrics = JUDGED_COSTS if table == "costs" else accuracy_metrics([table])
        for metric in metrics:
            for method in others:
                found = _difference(contest, table, metric, method, reference)
                if found is not None:
                    rows.append(
                        {
                            "table": table,
                            "metric": metric,
                            "method": method,
                            "reference": reference,
                            "difference": found.value,
                            "low": found.low,
                            "high": found.high,
                            "p": found.p_value,
                        }
                    )
    columns = ["table", "metric", "method", "reference", "difference", "low", "high", "p"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["p_holm"] = np.nan
    for _, family in frame.groupby("table"):
        frame.loc[family.index, "p_holm"] = corrected(family["p"].tolist())
    frame["told_apart"] = frame["p_holm"] < ALPHA
    return frame


def _difference(contest: Contest, table: str, metric: str, method: str, reference: str) -> Difference | None:
    if contest.seeds(method) != contest.seeds(reference):
        return None
    if table == "costs":
        pairs = contest.paired(method, reference, metric)
        if len(pairs) < 2:
            return None
        return over_repeats(pairs["ours"].to_numpy(np.float64), pairs["theirs"].to_numpy(np.float64))
    ours, theirs = (contest.gains.get(name, {}).get(metric) for name in (method, reference))
    if ours is None or theirs is None or not ours.same_questions(theirs):
        return None
    return over_users(ours, theirs)
