"""Requests as they are served: the computation of `Recommender`, on the network's own item ids.

Unlike `Recommender` it takes networks that read features of items too, so that their speed can be measured.
"""

from dataclasses import dataclass

import torch

from easrec.models.transformer import SequentialRecommender
from easrec.serving.best_items import Best, best_items
from easrec.serving.history_encoder import HistoryEncoder
from easrec.serving.item_table import ItemTable, item_table


@dataclass(frozen=True, slots=True)
class RequestServer:
    """A network as `easrec.serving` answers requests with it."""

    encoder: HistoryEncoder
    table: ItemTable

    @classmethod
    def of(cls, model: SequentialRecommender) -> "RequestServer":
        """That of a network in evaluation mode; one that reads features too."""
        return cls(HistoryEncoder(model), item_table(model.item_embedding.weight, "float32"))

    def answer(self, histories: list[list[int]], top_k: int) -> list[Best]:
        """The best items after histories, each of 1..N item ids."""
        with torch.inference_mode():
            return best_items(self.table.scores(self.encoder.outputs(histories)), top_k)
