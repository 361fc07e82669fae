"""Which of a user's items a state stands for: a network's positions end, a user's events do not.

A state holds two windows of at most `max_length` = N items, the second begun ceil(N / 2) events after the
first. Both take every item; the fuller one answers. When it is full it is emptied, the other answers from
then on, and the emptied one begins anew. So the state stands for all items while there are no more than N,
and then for the last N // 2 + 1 to N. Every event costs the same, every position is one that the network was
trained on, and the answer is that of the full forward pass over exactly those items.

This was chosen among several by validation, see `benchmarks/past_max_length.py`. On MovieLens-100K (N = 20,
50 and 100; one layer of 32 dimensions and two of 64; three seeds), for questions with more than N items
before them, validation NDCG@10 differs by -0.001 to +0.003 from that of a full forward pass over the last
N; one window, begun anew every N events, by 0.000 to +0.008 but with nothing to go by after each beginning;
to clamp positions at N - 1 and add up all items costs 0.006 to 0.030.

What happens with an event depends on how many came before only through a *phase*, of which there are a fixed
number: first those of the first 2 ceil(N / 2) events, then as many that come round and round.

Legend: B users, W windows of a state (2), P phases.
"""

from dataclasses import dataclass

import numpy as np

from easrec.data.sequences import Int64s

NUM_WINDOWS = 2


@dataclass(frozen=True)
class Windows:
    """The two windows of a state of a network with `max_length` positions.

    >>> windows = Windows(4)
    >>> windows.answering_length(windows.phase(np.arange(10)))
    array([0, 1, 2, 3, 4, 3, 4, 3, 4, 3])
    """

    max_length: int
    """N, the most items of a window."""

    @property
    def stride(self) -> int:
        """Events between the beginnings of the two windows."""
        return (self.max_length + 1) // 2

    @property
    def num_phases(self) -> int:
        """P."""
        return 2 * self._period

    @property
    def _period(self) -> int:
        return NUM_WINDOWS * self.stride

    def phase(self, events: Int64s) -> Int64s:
        """The phase of users with so many events, (B,), each in 0..P - 1; 0 is that of no event alone."""
        return np.where(events < self._period, events, self._period + events % self._period)

    def spans(self, events: Int64s) -> tuple[Int64s, Int64s]:
        """Where each window begins among a user's events and how many it holds, both (B, W), from (B,)."""
        last = events[:, None] - 1
        since = last - np.arange(NUM_WINDOWS) * self.stride
        begins = np.where(since >= 0, last - since % self._period, 0)
        # If N is odd, a full window waits for one event before it begins anew.
        counts = np.where(since >= 0, np.minimum(events[:, None] - begins, self.max_length), 0)
        return begins, counts

    def answering(self, phases: Int64s) -> Int64s:
        """The window that answers in a phase, (B,) -> (B,), each in 0..W - 1."""
        begins, counts = self.spans(phases)
        fullest: Int64s = np.where(begins + counts == phases[:, None], counts, -1).argmax(axis=1)
        return fullest

    def answering_length(self, phases: Int64s) -> Int64s:
        """How many of the last items the answer in a phase stands for, (B,) -> (B,)."""
        return self.spans(phases)[1][np.arange(len(phases)), self.answering(phases)]

    def next_positions(self) -> Int64s:
        """In each phase the position that the next item takes in each window, (P, W); -1: it takes none."""
        following = np.arange(self.num_phases) + 1
        begins, counts = self.spans(following)
        return np.where(begins + counts == following[:, None], counts - 1, -1)

    def next_phase(self) -> Int64s:
        """The phase after the next item, by phase, (P,)."""
        return self.phase(np.arange(self.num_phases) + 1)
