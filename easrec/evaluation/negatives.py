"""Negatives for the sampled protocols: items that a target is ranked among.

Legend: Q questions of a split, K negatives of each, V items (ids 1..V; 0 is padding).
"""

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from easrec.data.sequences import Int64s, Split, SplitData
from easrec.errors import InputError

Distribution = Literal["uniform", "popularity"]

REJECTION_ROUNDS = 16
"""After so many draws in vain a user has so little left to draw from that the rest is drawn exactly."""

CHUNK_ELEMENTS = 1 << 22
"""Questions times items held at once when drawing without replacement."""


def sample_negatives(
    data: SplitData,
    split: Split,
    *,
    distribution: Distribution,
    num_negatives: int = 100,
    seed: int = 0,
    replacement: bool = True,
) -> Int64s:
    """Draw negatives for every question of a split, from the seed alone.

    Never drawn: an item of the question's own history, and its target. What comes later in the user's
    sequence can be drawn; leaving the test item out at validation would tell what it is.

    Args:
        data: the split data.
        split: "valid" or "test".
        distribution: "uniform" over all items, or in proportion to an item's "popularity" in training.
        num_negatives: K.
        seed: of the draw; the split and the distribution each have a stream of their own.
        replacement: whether an item can be drawn twice for one question. Otherwise a question with fewer
            than K items left gets those that there are.

    Returns:
        Item ids, int64 (Q, K); zeros on the right where fewer are left.

    Raises:
        InputError: a question has no item left to draw.
    """
    if distribution not in get_args(Distribution):
        raise ValueError(f"distribution must be one of {get_args(Distribution)}, got {distribution!r}")
    if num_negatives < 1:
        raise ValueError(f"num_negatives must be at least 1, got {num_negatives}")
    excluded = _Excluded(data, split)
    streams = (seed, get_args(Split).index(split), get_args(Distribution).index(distribution))
    generator = np.random.default_rng(np.random.SeedSequence(streams))
    if distribution == "uniform":
        weights = np.ones(data.num_items + 1, dtype=np.int64)
        weights[0] = 0
    else:
        weights = data.training_counts()
    if replacement:
        return _with_replacement(generator, excluded, weights, num_negatives)
    return _without_replacement(generator, excluded, weights, num_negatives)


class _Excluded:
    """Which items a question's negatives may not be: its history and its target."""

    def __init__(self, data: SplitData, split: Split) -> None:
        self.data = data
        self.split = split
        self.questions = data.targets(split)
        self.target_items = data.target_items(split)
        rows = np.repeat(np.arange(data.num_users), np.diff(data.starts, append=len(data.items)))
        # One entry per (row, item) with its first position serves all questions of the row: an item is
        # in a question's history if it first came before the target.
        self._keys, self._first = np.unique(rows * (data.num_items + 1) + data.items, return_index=True)

    def contains(self, index: Int64s, items: Int64s) -> npt.NDArray[np.bool_]:
        """Whether question `index[i]` excludes item `items[i]`."""
        keys = self.questions.rows[index] * (self.data.num_items + 1) + items
        found = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        in_history = (self._keys[found] == keys) & (self._first[found] < self.questions.positions[index])
        contained: npt.NDArray[np.bool_] = in_history | (items == self.target_items[index])
        return contained

    def of(self, question: np.int64) -> npt.NDArray[np.integer[Any]]:
        """All items that one question excludes, some perhaps twice."""
        start = self.data.starts[self.questions.rows[question]]
        return self.data.items[start : self.questions.positions[question] + 1]

    def nothing_left(self, question: np.int64) -> InputError:
        """What to raise when a question excludes all that could be drawn."""
        return InputError(
            f"data set {self.data.name!r} leaves no negatives for user row "
            f"{self.questions.rows[question]} of the {self.split} split: its history and target hold every "
            "item that could be drawn; ask for the protocols 'full' and 'unseen' only"
        )


def _with_replacement(
    generator: np.random.Generator, excluded: _Excluded, weights: Int64s, num_negatives: int
) -> Int64s:
    num_questions = len(excluded.questions.rows)
    negatives = np.zeros(num_questions * num_negatives, dtype=np.int64)
    thresholds = np.cumsum(weights)
    pending = np.arange(len(negatives))
    # Where nothing occurs in training there is nothing to draw, which the loop after this one says.
    for _ in range(REJECTION_ROUNDS if thresholds[-1] else 0):
        drawn = _draw(generator, thresholds, len(pending))
        refused = excluded.contains(pending // num_negatives, drawn)
        negatives[pending] = np.where(refused, 0, drawn)
        pending = pending[refused]
    for question in np.unique(pending // num_negatives):
        begin, end = np.searchsorted(pending, (question * num_negatives, (question + 1) * num_negatives))
        part = pending[begin:end]
        remaining = weights.copy()
        remaining[excluded.of(question)] = 0
        if not remaining.any():
            raise excluded.nothing_left(question)
        negatives[part] = _draw(generator, np.cumsum(remaining), len(part))
    return negatives.reshape(num_questions, num_negatives)


def _draw(generator: np.random.Generator, thresholds: Int64s, size: int) -> Int64s:
    """Draw item ids, whole-numbered weights given by their cumulative sums."""
    return np.searchsorted(thresholds, generator.integers(0, thresholds[-1], size), side="right")


def _without_replacement(
    generator: np.random.Generator, excluded: _Excluded, weights: Int64s, num_negatives: int
) -> Int64s:
    """Draw one after the other, each from what then remains.

    Equal to a race in which item i arrives after an exponential time of rate `weights[i]`.
    """
    num_questions, num_columns = len(excluded.questions.rows), len(weights)
    width = min(num_negatives, num_columns)
    negatives = np.zeros((num_questions, num_negatives), dtype=np.int64)
    rates = np.where(weights > 0, weights, np.nan)
    chunk = max(1, CHUNK_ELEMENTS // num_columns)
    for start in range(0, num_questions, chunk):
        index = np.arange(start, min(start + chunk, num_questions))
        arrivals = generator.standard_exponential((len(index), num_columns)) / rates
        for row, question in enumerate(index):
            arrivals[row, excluded.of(question)] = np.nan
        first = np.argsort(arrivals, axis=1)[:, :width]  # NaN comes last
        remaining = ~np.isnan(np.take_along_axis(arrivals, first, axis=1))
        if not remaining[:, 0].all():
            raise excluded.nothing_left(index[~remaining[:, 0]][0])
        negatives[index, :width] = np.where(remaining, first, 0)
    return negatives
