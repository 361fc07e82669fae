"""Where the target of every question stood, kept with a retrained network.

A mean says how good a network is; telling two networks apart takes what each earned from the same users.

Legend: Q questions of a split, U users.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from easrec.data.sequences import Int64s, Split, SplitData
from easrec.evaluation.protocols import PROTOCOLS, Scorer, protocol_ranks
from easrec.evaluation.ranking import ranking_metrics
from easrec.files import write_atomically
from sweeps.intervals import earnings

RANKS = "ranks.parquet"
"""What an entry of the store and a run in MLflow call the file."""

_SPLITS: tuple[Split, ...] = ("valid", "test")


def rank_table(scorer: Scorer, data: SplitData, *, max_length: int, device: str = "cpu") -> pd.DataFrame:
    """Rank the targets of validation and test under every protocol.

    Args:
        scorer: see `protocol_ranks`.
        data: the split data.
        max_length: N, the most recent items that the scorer is given.
        device: where the scorer wants its arguments.

    Returns:
        One row per question: `split`, `user` (a row of the data), and the rank from 1 under each protocol,
        missing where the data set does not allow it in that split.
    """
    parts = []
    for split in _SPLITS:
        ranks = protocol_ranks(scorer, data, split, max_length=max_length, device=device)
        columns = {name: pd.array(values, dtype="Int32") for name, values in ranks.items()}
        users = data.targets(split).rows.astype(np.int32)
        parts.append(pd.DataFrame({"split": split, "user": users, **columns}))
    table = pd.concat(parts, ignore_index=True)
    return table.astype({name: "Int32" for name in PROTOCOLS if name in table})


def rank_metrics(table: pd.DataFrame, k: int = 10) -> dict[str, float]:
    """The means of a table's ranks, such as `valid/unseen/ndcg_at_10`."""
    found: dict[str, float] = {}
    for split in _SPLITS:
        rows = table[table["split"] == split]
        for protocol in PROTOCOLS:
            if protocol in rows and len(ranks := _known(rows[protocol])):
                metrics = ranking_metrics(ranks, k)
                found |= {f"{split}/{protocol}/{name}": value for name, value in metrics.items()}
    return found


def write_ranks(table: pd.DataFrame, path: Path) -> None:
    """Write a table, whole or not at all."""
    write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False, compression="zstd"))


@dataclass(frozen=True, slots=True)
class Gains:
    """What a network earned from each user, in one metric."""

    users: Int64s
    """Rows of the data, ascending, (U,)."""
    questions: npt.NDArray[np.float64]
    """How many each was asked, (U,)."""
    earned: npt.NDArray[np.float64]
    """Sums over a user's questions, (U,); all of them over all questions is the metric."""

    @property
    def mean(self) -> float:
        """The metric."""
        return float(self.earned.sum() / self.questions.sum())

    def same_questions(self, other: "Gains") -> bool:
        """Whether both were asked the same number by the same users."""
        return np.array_equal(self.users, other.users) and np.array_equal(self.questions, other.questions)


def mean_gains(found: Sequence[Gains]) -> Gains | None:
    """What several networks earned from each user on average; None where they were asked other questions."""
    if not all(gains.same_questions(found[0]) for gains in found):
        return None
    earned = np.mean([gains.earned for gains in found], axis=0)
    return Gains(found[0].users, found[0].questions, earned)


def gains_of(table: pd.DataFrame, metric: str) -> Gains | None:
    """What a table says of a metric such as `valid/unseen/ndcg_at_10`; None where it has no such ranks."""
    split, protocol, name = metric.split("/")
    rows = table[table["split"] == split]
    if protocol not in rows or rows[protocol].isna().any() or rows.empty:
        return None
    earned = earnings(_known(rows[protocol]), int(name.rpartition("_")[2]))[name]
    users, index = np.unique(rows["user"].to_numpy(dtype=np.int64), return_inverse=True)
    return Gains(
        users=users,
        questions=np.bincount(index).astype(np.float64),
        earned=np.bincount(index, weights=earned).astype(np.float64),
    )


def read_gains(path: Path, metric: str) -> Gains | None:
    """As `gains_of`, of a file that `write_ranks` wrote."""
    return gains_of(pd.read_parquet(path), metric)


def _known(ranks: "pd.Series[int]") -> Int64s:
    known: Int64s = np.asarray(ranks.dropna(), dtype=np.int64)
    return known
