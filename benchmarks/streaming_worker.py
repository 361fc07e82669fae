"""Updates of users' states against full forward passes, for `benchmarks/serving.py`.

A request is a scenario, see `Scenario`; histories are drawn at random, weights are fresh: neither changes
what is computed. Contestants: `full` gives outputs (B, D) from whole histories as `Recommender` computes
them, `full by torch` the same by `SequentialRecommender.last_outputs`, `forward` those of all positions;
`update` takes one more item into the states; `output` gives the same outputs from the states; `update and
output` does both. With raw item ids and the ten best items around it, `recommend` is the first and `update
and recommend` the last of these.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from peers.worker import Contestant, work
from report import own_versions

from easrec.data.items import Items
from easrec.data.sequences import Int64s
from easrec.models.architecture import Architecture
from easrec.models.transformer import SequentialRecommender
from easrec.serving import Recommendations, Recommender, UserStates
from easrec.serving.history_encoder import HistoryEncoder

NUM_ITEMS = 1682
CHUNK_POSITIONS = 4000
"""Positions that `full by torch` computes at once: with so many its buffers stay in the caches."""


@cache
def _recommender(architecture: str, max_length: int) -> Recommender:
    torch.manual_seed(0)
    model = SequentialRecommender(Architecture.from_json(architecture), NUM_ITEMS, max_length)
    # Fresh weights have norms of one and biases of zero, which would hide mistakes from the check.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.05
        model.item_embedding.weight[0] = 0
    own_ids = np.arange(NUM_ITEMS + 1)
    return Recommender(model, Items(own_ids, np.ones(NUM_ITEMS + 1, dtype=np.int64)))


@dataclass(frozen=True)
class Scenario:
    """Users of a network who all have met the same number of items."""

    recommender: Recommender
    """Its own ids are the network's."""
    encoder: HistoryEncoder
    """What it computes histories with."""
    histories: Int64s
    """What the network sees of some users, the new item too, (A, N or fewer): what `full` is timed on."""
    lists: list[list[int]]
    """The same as lists."""
    events: int
    """How many items each has met, the new one too."""
    before: UserStates
    """All users without the new item; of more than A users, the same ones again."""
    new: Int64s
    """The new item of each user, (B,)."""
    after: UserStates

    @classmethod
    def make(cls, architecture: str, max_length: int, users: int, distinct: int, events: int) -> "Scenario":
        """`users` states, `distinct` of them different, after so many events, the new one counted."""
        recommender = _recommender(architecture, max_length)
        encoder = HistoryEncoder(recommender.model)
        histories = np.random.default_rng(0).integers(1, NUM_ITEMS + 1, (distinct, events))
        copies = np.resize(np.arange(distinct), users)
        before = recommender.start_many(histories[:, :-1].tolist()).select(copies)
        new = histories[copies, -1]
        after = recommender.streaming.update(before, new)
        recent = histories[:, -max_length:]
        return cls(recommender, encoder, recent, recent.tolist(), events, before, new, after)

    def full(self) -> torch.Tensor:
        """Outputs of whole histories, (A, D)."""
        return self.encoder.outputs(self.lists)

    def full_by_torch(self) -> torch.Tensor:
        """Outputs of whole histories, (A, D)."""
        return self._outputs_of(self.histories)

    @torch.inference_mode()
    def forward(self) -> list[torch.Tensor]:
        """The outputs at all positions of whole histories, (A, N, D) in parts; the last one is kept."""
        users_at_once = max(1, CHUNK_POSITIONS // self.histories.shape[1])
        return [self.recommender.model(part)[:, -1] for part in self._parts(users_at_once)]

    def _parts(self, users_at_once: int) -> tuple[torch.Tensor, ...]:
        return torch.from_numpy(self.histories).split(users_at_once)

    def update(self) -> UserStates:
        """The states with the new item."""
        return self.recommender.streaming.update(self.before, self.new)

    def output(self) -> torch.Tensor:
        """Outputs of the states, (B, D)."""
        return self.recommender.streaming.outputs(self.after)

    def update_and_output(self) -> torch.Tensor:
        """Outputs of the states with the new item, (B, D)."""
        return self.recommender.streaming.outputs(self.update())

    def recommend(self) -> Recommendations:
        """The best items after whole histories, of A users."""
        return self.recommender.recommend(self.lists)

    def update_and_recommend(self) -> Recommendations:
        """The best items of all users after the new item."""
        return self.recommender.recommend(self.recommender.update_many(self.before, self.new.tolist()))

    @torch.inference_mode()
    def _outputs_of(self, histories: Int64s) -> torch.Tensor:
        users_at_once = max(1, CHUNK_POSITIONS // histories.shape[1])
        parts = torch.from_numpy(histories).split(users_at_once)
        return torch.cat([self.recommender.model.last_outputs(part) for part in parts])

    def check(self) -> None:
        """Compare with the full forward pass over the items that the states stand for."""
        windows = self.recommender.streaming.windows
        (length,) = windows.answering_length(windows.phase(np.array([self.events])))
        expected = self._outputs_of(self.histories[:, -length:])
        found = self.update_and_output()[: len(expected)]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(self.full(), self.full_by_torch(), rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.cat(self.forward()), self.full(), rtol=0, atol=1e-4)
        if length == self.events:
            wanted = torch.tensor(self.recommend().scores)
            given = torch.tensor(self.update_and_recommend().scores[: len(wanted)])
            torch.testing.assert_close(given, wanted, rtol=0, atol=1e-3)


_scenarios: dict[str, Scenario] = {}


def prepare(request: dict[str, Any]) -> Scenario:
    """The scenario of a request, made and checked once."""
    key = repr(sorted(request.items()))
    if key not in _scenarios:
        scenario = Scenario.make(**request)
        scenario.check()
        _scenarios[key] = scenario
    return _scenarios[key]


def main() -> None:
    """Serve the driver."""

    def nothing(result: object, request: object) -> None:
        """Answers are checked when a scenario is made."""

    contestants = {
        "full": Contestant(Scenario.full, prepare, nothing),
        "full by torch": Contestant(Scenario.full_by_torch, prepare, nothing),
        "forward": Contestant(Scenario.forward, prepare, nothing),
        "update": Contestant(Scenario.update, prepare, nothing),
        "output": Contestant(Scenario.output, prepare, nothing),
        "update and output": Contestant(Scenario.update_and_output, prepare, nothing),
        "recommend": Contestant(Scenario.recommend, prepare, nothing),
        "update and recommend": Contestant(Scenario.update_and_recommend, prepare, nothing),
    }
    work(contestants, own_versions("easrec", "torch"), torch.set_num_threads)


if __name__ == "__main__":
    main()
