"""Requests as they are served: the computation of `Recommender`, on the network's own item ids.

Unlike `Recommender` it takes networks that read features of items too, so that their speed can be measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from easrec.models.features import FDSA, SASRecF
from easrec.models.transformer import SequentialRecommender
from easrec.serving.best_items import Best, best_items
from easrec.serving.history_encoder import HistoryEncoder
from easrec.serving.item_table import ItemTable, item_table
from easrec.serving.states import UserStates
from easrec.serving.streaming import StreamingNetwork


@dataclass(frozen=True, slots=True)
class RequestServer:
    """A network as `easrec.serving` answers requests with it."""

    encoder: HistoryEncoder
    table: ItemTable
    streaming: StreamingNetwork | None
    """The recurrent form; None where there is none, and users have no states."""
    device: torch.device

    @classmethod
    def of(cls, model: SequentialRecommender) -> "RequestServer":
        """That of a network in evaluation mode; one that reads features too."""
        recurrent = model.architecture.attention == "linear" and not isinstance(model, SASRecF | FDSA)
        return cls(
            HistoryEncoder(model),
            item_table(model.item_embedding.weight, "float32"),
            StreamingNetwork(model) if recurrent else None,
            model.item_embedding.weight.device,
        )

    def from_history(self, history: Sequence[int], top_k: int) -> Best:
        """The best items after a history of 1..N item ids."""
        with torch.inference_mode():
            return best_items(self.table.scores(self.encoder.outputs([history])), top_k)[0]

    def from_state(self, state: UserStates, top_k: int) -> Best:
        """The best items of the user of a state."""
        with torch.inference_mode():
            outputs = self._recurrent.outputs(state).to(self.device)
            return best_items(self.table.scores(outputs), top_k)[0]

    def state_after(self, history: Sequence[int]) -> UserStates:
        """The state of a user after a history."""
        return self._recurrent.start([history], remember_seen=False)

    def update(self, state: UserStates, item: int) -> UserStates:
        """The state after one more item."""
        return self._recurrent.update(state, np.array([item]))

    @property
    def _recurrent(self) -> StreamingNetwork:
        if self.streaming is None:
            raise ValueError("the network has no recurrent form, so its users have no states")
        return self.streaming
