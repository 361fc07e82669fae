"""One layer of the supernet: the K candidate transformers, with their own or with shared weights.

Shapes: T real positions in the batch, D = d_k the candidate's hidden size.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.packing import Packing
from easrec.models.transformer import LAYER_NORM_EPS, TransformerLayer


class CandidateLayer(Protocol):
    """What the supernet asks of a layer."""

    def __call__(self, candidate: int, x: Tensor, embeddings: Tensor, packing: Packing) -> Tensor:
        """The candidate's output (T, D) for its input (T, D) and embeddings (T, D)."""
        ...

    def state_of(self, candidate: int) -> dict[str, Tensor]:
        """The candidate's parameters, by their names in a `TransformerLayer`."""
        ...


class IndependentLayer(nn.Module):
    """Each candidate has its own weights (the paper's)."""

    def __init__(self, space: CandidateSpace, dropout: float) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(
            TransformerLayer(space.architecture(candidate, 1), dropout) for candidate in range(len(space))
        )

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile each candidate by itself; arguments as of `torch.compile`."""
        for candidate in self.candidates:
            candidate.compile(*args, **options)

    def forward(self, candidate: int, x: Tensor, embeddings: Tensor, packing: Packing) -> Tensor:
        """See `CandidateLayer`."""
        y: Tensor = self.candidates[candidate](x, embeddings, packing)
        return y

    def state_of(self, candidate: int) -> dict[str, Tensor]:
        """See `CandidateLayer`."""
        return dict(self.candidates[candidate].named_parameters())


class SharedLayer(nn.Module):
    """Candidates use nested slices of one set of weights, as in once-for-all networks.

    A candidate takes the first d_k hidden and f_k inner dimensions of each matrix, of each attention head the
    first d_k / h rows. Its LayerNorms are its own, since each normalises over a different width.
    """

    def __init__(self, space: CandidateSpace, dropout: float) -> None:
        super().__init__()
        whole = Architecture.from_dict(
            space.architecture(0, 1).to_dict()
            | {"hidden_size": space.hidden_size, "inner_size": space.inner_size}
        )
        self.num_heads = space.num_heads
        self.whole = TransformerLayer(whole, dropout)
        # The norms of the whole would be a candidate's; each candidate has a pair of its own instead.
        del self.whole.attention_norm, self.whole.feed_norm
        self.sizes = [space.sizes(candidate) for candidate in range(len(space))]
        self.norms = nn.ModuleList(
            nn.ModuleDict(
                {name: nn.LayerNorm(hidden, eps=LAYER_NORM_EPS) for name in ("attention_norm", "feed_norm")}
            )
            for hidden, _ in self.sizes
        )
        # Skeletons give the computation and no weights; kept out of the modules, so out of the state.
        with torch.device("meta"):
            self._skeletons = tuple(
                TransformerLayer(space.architecture(candidate, 1), dropout) for candidate in range(len(space))
            )

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile each candidate by itself; arguments as of `torch.compile`."""
        for skeleton in self._skeletons:
            skeleton.compile(*args, **options)

    def forward(self, candidate: int, x: Tensor, embeddings: Tensor, packing: Packing) -> Tensor:
        """See `CandidateLayer`."""
        skeleton = self._skeletons[candidate]
        skeleton.train(self.training)
        y: Tensor = functional_call(skeleton, self.state_of(candidate), (x, embeddings, packing))
        return y

    def state_of(self, candidate: int) -> dict[str, Tensor]:
        """See `CandidateLayer`; slices of the shared weights, through which gradients flow."""
        state = {
            name: self._slice(name, whole, *self.sizes[candidate])
            for name, whole in self.whole.named_parameters()
        }
        return state | dict(self.norms[candidate].named_parameters())

    def _slice(self, name: str, whole: Tensor, hidden: int, inner: int) -> Tensor:
        heads, kept = self.num_heads, hidden // self.num_heads
        if name == "query_key_value.weight":
            blocks = whole.view(3, heads, -1, whole.shape[1])
            return blocks[:, :, :kept, :hidden].reshape(3 * hidden, hidden)
        if name == "query_key_value.bias":
            return whole.view(3, heads, -1)[:, :, :kept].reshape(3 * hidden)
        if name == "attention_output.weight":
            columns = whole.view(len(whole), heads, -1)
            return columns[:hidden, :, :kept].reshape(hidden, hidden)
        rows = inner if name.startswith(("feed_in.", "inner_gate.output.")) else hidden
        if name.endswith(".bias"):
            return whole[:rows]
        return whole[:rows, : inner if name == "feed_out.weight" else hidden]
