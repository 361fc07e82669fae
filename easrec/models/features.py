"""Networks that read what is known of items beside their ids: SASRecF and FDSA.

Both are the transformer of an `Architecture` with more around it, have tied output weights over the item
embedding, and carry the table of their items' values, so that a saved network is complete.

Shapes: B sequences, N positions, T real positions in the batch, D hidden size, V items, A distinct values,
W values of one item.
"""

from abc import abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.models.dropout import dropout
from easrec.models.packing import Packing
from easrec.models.products import linear
from easrec.models.transformer import LAYER_NORM_EPS, SequentialRecommender, TransformerLayer, dense

FeatureKind = Literal["sasrecf", "fdsa"]


def _check_values(item_values: Tensor, num_items: int, num_values: int) -> None:
    if item_values.dim() != 2 or len(item_values) != num_items + 1 or item_values.dtype != torch.int64:
        raise InputError(
            f"the table of features must be int64 ({num_items + 1}, W), a row for padding and for each "
            f"of the {num_items} items, got {item_values.dtype} {tuple(item_values.shape)}"
        )
    if bool((item_values < 0).any()) or bool((item_values > num_values).any()):
        raise InputError(f"the table of features must hold numbers in 0..{num_values}")


class _FeatureRecommender(SequentialRecommender):
    """What both networks have: the values of the items and their embeddings.

    Args:
        architecture: the transformer.
        num_items: V; item ids are 1..V and 0 is padding.
        max_length: the most positions that a sequence may have.
        dropout: share of values dropped after the embeddings and before each residual sum.
        attention_dropout: share of softmax attention's weights dropped.
        item_values: numbers of values 1..A, int64 (V + 1, W), zeros on the right; row 0 is padding. An item
            without values has a row of zeros, and contributes a vector of zeros where values are pooled.
        num_values: A.
    """

    kind: FeatureKind

    def __init__(
        self,
        architecture: Architecture,
        num_items: int,
        max_length: int,
        dropout: float = 0.2,
        *,
        item_values: Tensor,
        num_values: int,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__(architecture, num_items, max_length, dropout, attention_dropout=attention_dropout)
        _check_values(item_values, num_items, num_values)
        self.num_values = num_values
        self.item_values: Tensor
        self.register_buffer("item_values", item_values.clone())
        self.value_embedding = nn.Embedding(num_values + 1, architecture.hidden_size, padding_idx=0)
        nn.init.normal_(self.value_embedding.weight, std=0.02)
        with torch.no_grad():
            self.value_embedding.weight[0] = 0
        self._build()

    @abstractmethod
    def _build(self) -> None:
        """Make what one network has and the other has not."""

    def _rows(self, item_ids: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Item ids (B, N) -> the real ones, int64 (T,), and the position embeddings there, (T, D)."""
        num_positions = item_ids.shape[1]
        if num_positions > self.max_length:
            raise ValueError(
                f"sequences may have at most max_length={self.max_length} items, got {num_positions}"
            )
        positions = torch.arange(num_positions, device=item_ids.device).expand_as(item_ids)
        return packing.pack(item_ids), self.position_embedding(packing.pack(positions))

    def _pooled(self, ids_T: Tensor, weights_TW: Tensor | None) -> Tensor:
        """Sums of the items' value embeddings by some weights, means without; (T, D)."""
        pooled: Tensor = F.embedding_bag(
            self.item_values[ids_T],
            self.value_embedding.weight,
            mode="mean" if weights_TW is None else "sum",
            per_sample_weights=weights_TW,
            padding_idx=0,
        )
        return pooled


class SASRecF(_FeatureRecommender):
    """SASRec over fused inputs: (item embedding | mean of the item's value embeddings) W + b, plus position.

    As in RecBole, whose SASRecF this is where items have one feature and its values are pooled by their mean;
    values of several features are pooled together here. See `SequentialRecommender` for what follows.
    """

    kind: FeatureKind = "sasrecf"

    def _build(self) -> None:
        self.fusion = dense(2 * self.architecture.hidden_size, self.architecture.hidden_size)

    def _embed(self, item_ids: Tensor, packing: Packing) -> Tensor:
        ids, positions = self._rows(item_ids, packing)
        fused = self.fusion(torch.cat([self.item_embedding(ids), self._pooled(ids, None)], dim=1))
        return dropout(self.embedding_norm(fused + positions), self.dropout, self.training)


class FDSA(_FeatureRecommender):
    """Feature-level deeper self-attention (Zhang et al. 2019): a transformer over items, one over features.

    Vanilla attention pools an item's value embeddings v_a into f = sum_a softmax_a(u . relu(v_a W + b)) v_a;
    one stream of layers reads item plus position embeddings, the other f plus position embeddings, each
    after a LayerNorm of its own; their outputs are joined as (O_items | O_features) W + b.
    """

    kind: FeatureKind = "fdsa"

    def _build(self) -> None:
        hidden = self.architecture.hidden_size
        self.value_attention = dense(hidden, hidden)
        self.value_score = nn.Parameter(torch.empty(1, hidden))
        nn.init.xavier_uniform_(self.value_score)
        self.feature_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.feature_layers = nn.ModuleList(
            TransformerLayer(self.architecture, self.dropout, self.attention_dropout)
            for _ in range(self.architecture.num_layers)
        )
        self.joining = dense(2 * hidden, hidden)

    def item_features(self, ids: Tensor) -> Tensor:
        """The pooled features of items, int64 (T,) -> (T, D); zeros for an item without values."""
        scores = F.linear(self.value_attention(self.value_embedding.weight, "relu"), self.value_score)
        values = self.item_values[ids]
        # The least number and not -inf, whose softmax is NaN for an item without values. Whatever its weights
        # are then, value 0 adds nothing.
        logits = scores[values, 0].masked_fill(values == 0, torch.finfo(scores.dtype).min)
        weights = logits.softmax(dim=1)
        return self._pooled(ids, weights.to(self.value_embedding.weight.dtype))

    def _streams(self, item_ids: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Normalised inputs of both streams, (T, D) each."""
        ids, positions = self._rows(item_ids, packing)
        items = self.embedding_norm(self.item_embedding(ids) + positions)
        features = self.feature_norm(self.item_features(ids) + positions)
        return (
            dropout(items, self.dropout, self.training),
            dropout(features, self.dropout, self.training),
        )

    def _joined(self, item_ids: Tensor, packing: Packing, *, last_only: bool) -> Tensor:
        outputs = []
        for layers, embeddings in zip(
            (self.layers, self.feature_layers), self._streams(item_ids, packing), strict=True
        ):
            x = embeddings
            for index, layer in enumerate(layers, 1):
                x = layer(x, embeddings, packing, last_only=last_only and index == len(layers))
            outputs.append(x)
        joined: Tensor = linear(torch.cat(outputs, dim=1), self.joining.weight, self.joining.bias)
        return joined

    def _encode(self, item_ids: Tensor, packing: Packing) -> Tensor:
        return self._joined(item_ids, packing, last_only=False)

    def last_outputs(self, item_ids: Tensor) -> Tensor:
        """See `SequentialRecommender.last_outputs`."""
        return self._joined(item_ids, Packing(item_ids > 0), last_only=True)


FEATURE_NETWORKS: dict[FeatureKind, type[SASRecF] | type[FDSA]] = {"sasrecf": SASRecF, "fdsa": FDSA}


def check_plain(model: SequentialRecommender, what: str) -> None:
    """Refuse, by `InputError`, a network that reads features where only items are read.

    Args:
        model: a network.
        what: what cannot be done with it.
    """
    if isinstance(model, _FeatureRecommender):
        raise InputError(
            f"{what} is for networks that read items alone, and this is {type(model).__name__}, which reads "
            "their features too"
        )
