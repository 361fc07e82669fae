"""A transformer layer with data-aware gates, and the network that an `Architecture` describes.

Shapes: B sequences, N positions, T real positions in the batch, D hidden size, F inner size, H heads,
V items.
"""

from typing import Any

import torch
from torch import Tensor, nn

from easrec.data.batches import Batch
from easrec.models.architecture import Architecture
from easrec.models.attention import (
    linear_attention,
    linear_attention_at_last,
    softmax_attention,
    softmax_attention_at_last,
)
from easrec.models.dropout import dropout
from easrec.models.gates import DataAwareGate
from easrec.models.packing import Packing
from easrec.models.prediction import check_lengths, item_loss, item_scores
from easrec.models.products import Linear, linear

LAYER_NORM_EPS = 1e-12


def dense(input_size: int, output_size: int, *, blocks: int = 1) -> Linear:
    """A linear layer with Xavier-uniform weights and zero biases.

    `blocks` equal parts of the output are initialised as separate layers: queries, keys and values share
    one matrix product, yet each has the fan-out of its own.
    """
    layer = Linear(input_size, output_size)
    for part in layer.weight.chunk(blocks):
        nn.init.xavier_uniform_(part)
    nn.init.zeros_(layer.bias)
    return layer


def init_embeddings(item_embedding: nn.Embedding, position_embedding: nn.Embedding) -> None:
    """Draw embeddings from N(0, 0.02^2); the padding row is zero."""
    for embedding in (item_embedding, position_embedding):
        nn.init.normal_(embedding.weight, std=0.02)
    with torch.no_grad():
        item_embedding.weight[0] = 0


def embed(item_ids: Tensor, item_embedding: nn.Embedding, position_embedding: nn.Embedding) -> Tensor:
    """Item ids (B, N) -> item plus position embeddings (B, N, D), before any norm (paper Eq. 3).

    Raises:
        ValueError: the sequences are longer than there are positions.
    """
    num_positions, max_length = item_ids.shape[1], position_embedding.num_embeddings
    if num_positions > max_length:
        raise ValueError(f"sequences may have at most max_length={max_length} items, got {num_positions}")
    embedded: Tensor = item_embedding(item_ids) + position_embedding.weight[:num_positions]
    return embedded


class TransformerLayer(nn.Module):
    """One layer (paper Eq. 5-9): attention, then a feed-forward network with gated dense layers.

        S  = LayerNorm(X + Dropout(MultiHead(X) W_o))
        F1 = G1(E) * gelu(S W1 + b1)
        F2 = G2(E) * (F1 W2 + b2)
        Y  = LayerNorm(S + Dropout(F2))

    Args:
        architecture: sizes, attention and gates; its number of layers plays no part here.
        dropout: share of values dropped before each residual sum.
        attention_dropout: share of softmax attention's weights dropped; linear attention has no such weights.
    """

    def __init__(self, architecture: Architecture, dropout: float, attention_dropout: float = 0.0) -> None:
        super().__init__()
        hidden, inner = architecture.hidden_size, architecture.inner_size
        self.architecture = architecture
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.query_key_value = dense(hidden, 3 * hidden, blocks=3)
        self.attention_output = dense(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.feed_in = dense(hidden, inner)
        self.feed_out = dense(inner, hidden)
        self.feed_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        gates = architecture.gate_layers
        self.inner_gate = DataAwareGate(hidden, inner, gates) if gates else None
        self.outer_gate = DataAwareGate(hidden, hidden, gates) if gates else None

    def forward(self, x: Tensor, embeddings: Tensor, packing: Packing, *, last_only: bool = False) -> Tensor:
        """One layer.

        Args:
            x: the layer's input at the real positions, (T, D).
            embeddings: what the gates read, (T, D): the normalised input embeddings.
            packing: which positions these are.
            last_only: give the output at the last real position of each sequence alone. Of the positions
                before it only keys and values are needed: less than half of the layer's work.

        Returns:
            (T, D), or (B, D) where `last_only`.
        """
        if not last_only:
            return self._feed_forward(x, embeddings, self._attend(x, packing))
        rows = packing.last_rows
        last = x.index_select(0, rows)
        attended = self._attend_at_last(last, x, packing)
        last_embeddings = last if embeddings is x else embeddings.index_select(0, rows)
        return self._feed_forward(last, last_embeddings, attended)

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile what is computed between gathers; arguments as of `torch.compile`.

        The gathers themselves have as many groups as the lengths of a batch make, and sizes of their own each
        time: they stay outside.
        """
        for name in ("_attend_sequences", "_feed_forward"):
            # On the object, in place of the class's method; no part of the module's state.
            object.__setattr__(self, name, torch.compile(getattr(self, name), *args, **options))

    def _feed_forward(self, x: Tensor, embeddings: Tensor, attended: Tensor) -> Tensor:
        """The layer's output at some positions, from its input there and what the heads attended to."""
        attended = self.attention_output(attended)
        s = self.attention_norm(x + dropout(attended, self.dropout, self.training))
        f = self.feed_in(s, "gelu")
        if self.inner_gate is not None:
            f = self.inner_gate(embeddings) * f
        f = self.feed_out(f)
        if self.outer_gate is not None:
            f = self.outer_gate(embeddings) * f
        y: Tensor = self.feed_norm(s + dropout(f, self.dropout, self.training))
        return y

    @property
    def _dropped_attention(self) -> float:
        return self.attention_dropout if self.training else 0.0

    def _attend(self, x_TD: Tensor, packing: Packing) -> Tensor:
        return packing.by_sequence(self._attend_sequences, self.query_key_value(x_TD))

    def _attend_sequences(self, projected_BNC: Tensor) -> Tensor:
        """Queries, keys and values side by side, (B, N, 3 D), zeros at padding -> (B, N, D).

        No mask is needed: padding comes last, where causal attention does not look, and a key and value of
        zeros add nothing to linear attention. Outputs at padding are dropped.
        """
        heads = self.architecture.num_heads
        split = projected_BNC.unflatten(2, (3, heads, -1))
        # One copy here is cheaper than strided access in all that follows.
        q_BHND, k_BHND, v_BHND = split.permute(2, 0, 3, 1, 4).contiguous().unbind(0)
        if self.architecture.attention == "softmax":
            out_BHND = softmax_attention(q_BHND, k_BHND, v_BHND, dropout=self._dropped_attention)
        else:
            out_BHND = linear_attention(
                q_BHND,
                k_BHND,
                v_BHND,
                key_norm=self.architecture.key_norm,
                causal=self.architecture.causal,
            )
        return out_BHND.transpose(1, 2).flatten(2)

    def _attend_at_last(self, last_BD: Tensor, x_TD: Tensor, packing: Packing) -> Tensor:
        hidden, heads = x_TD.shape[1], self.architecture.num_heads
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        q_BHND = linear(last_BD, weight[:hidden], bias[:hidden]).view(-1, heads, 1, hidden // heads)
        projected = packing.unpack(linear(x_TD, weight[hidden:], bias[hidden:]))
        split = projected.unflatten(2, (2, heads, hidden // heads))
        k_BHND, v_BHND = split.permute(2, 0, 3, 1, 4).unbind(0)
        if self.architecture.attention == "softmax":
            mask = None if packing.full else packing.mask
            out_BHND = softmax_attention_at_last(
                q_BHND, k_BHND, v_BHND, mask=mask, dropout=self._dropped_attention
            )
        else:
            # No mask, as in `_attend_sequences`: keys of zeros have no weight.
            out_BHND = linear_attention_at_last(q_BHND, k_BHND, v_BHND, key_norm=self.architecture.key_norm)
        return out_BHND.flatten(1)


class SequentialRecommender(nn.Module):
    """The network that an `Architecture` describes: embeddings, layers, tied output weights.

    Args:
        architecture: what the network is.
        num_items: V; item ids are 1..V and 0 is padding.
        max_length: the most positions that a sequence may have.
        dropout: share of values dropped after the embeddings and before each residual sum.
        attention_dropout: share of softmax attention's weights dropped.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_items: int,
        max_length: int,
        dropout: float = 0.2,
        *,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.num_items = num_items
        self.max_length = max_length
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        hidden = architecture.hidden_size
        self.item_embedding = nn.Embedding(num_items + 1, hidden, padding_idx=0)
        self.position_embedding = nn.Embedding(max_length, hidden)
        self.embedding_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.layers = nn.ModuleList(
            TransformerLayer(architecture, dropout, attention_dropout) for _ in range(architecture.num_layers)
        )
        init_embeddings(self.item_embedding, self.position_embedding)

    def forward(self, item_ids: Tensor) -> Tensor:
        """Item ids, int64 (B, N), left-aligned, 0 is padding -> outputs (B, N, D), zeros at padding."""
        packing = Packing(item_ids > 0)
        return packing.unpack(self._encode(item_ids, packing))

    def _embed(self, item_ids: Tensor, packing: Packing) -> Tensor:
        """Item ids (B, N) -> normalised embeddings at the real positions, (T, D)."""
        embedded = packing.pack(embed(item_ids, self.item_embedding, self.position_embedding))
        return dropout(self.embedding_norm(embedded), self.dropout, self.training)

    def _encode(self, item_ids: Tensor, packing: Packing) -> Tensor:
        """Item ids (B, N) -> outputs at the real positions, (T, D)."""
        embeddings = self._embed(item_ids, packing)
        x = embeddings
        for layer in self.layers:
            x = layer(x, embeddings, packing)
        return x

    def last_outputs(self, item_ids: Tensor) -> Tensor:
        """`forward` at the last item of each history alone, which is all that scores need.

        Args:
            item_ids: int64 (B, N), left-aligned, 0 is padding; no history is empty.

        Returns:
            (B, D).
        """
        packing = Packing(item_ids > 0)
        embeddings = self._embed(item_ids, packing)
        x = embeddings
        for layer in self.layers[:-1]:
            x = layer(x, embeddings, packing)
        outputs: Tensor = self.layers[-1](x, embeddings, packing, last_only=True)
        return outputs

    def scores(self, item_ids: Tensor, lengths: Tensor) -> Tensor:
        """How well each item follows each history.

        Args:
            item_ids: int64 (B, N), left-aligned, 0 is padding.
            lengths: real items of each history, int64 (B,), at least 1.

        Returns:
            float32 (B, V + 1); column 0, the padding, is -inf.

        Raises:
            ValueError: `lengths` are not those of the histories, or one is empty.
        """
        check_lengths(item_ids, lengths)
        return item_scores(self.last_outputs(item_ids), self.item_embedding.weight)

    def loss(self, batch: Batch, negatives: Tensor | None = None) -> Tensor:
        """Mean cross-entropy over the batch's targets, a scalar.

        Args:
            batch: sequences and targets.
            negatives: items that the targets compete with, see `sampled_item_loss`; None for all items.
        """
        if batch.last_only:
            outputs, targets = self.last_outputs(batch.item_ids), batch.targets.amax(dim=1)
        else:
            packing = Packing(batch.item_ids > 0)
            outputs, targets = self._encode(batch.item_ids, packing), packing.pack(batch.targets)
        return item_loss(outputs, targets, self.item_embedding, negatives)
