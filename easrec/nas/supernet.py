"""The supernet: every candidate width and every depth in one network, mixed by the controllers.

Shapes: B sequences, N positions, T real positions in the batch, d hidden size of the supernet, d_k that of
candidate k, K candidates, L layers.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from easrec.data.batches import Batch
from easrec.errors import InputError
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.dropout import dropout
from easrec.models.packing import Packing
from easrec.models.prediction import check_lengths, item_loss, item_scores
from easrec.models.saving import save_weights
from easrec.models.transformer import (
    LAYER_NORM_EPS,
    SequentialRecommender,
    embed,
    init_embeddings,
)
from easrec.nas.candidates import CandidateLayer, IndependentLayer, SharedLayer
from easrec.nas.controllers import Controllers
from easrec.nas.resources import network_flops

ShutGates = tuple[int | None, int | None]
"""A candidate and an exit, both counted from 0."""


class Supernet(nn.Module):
    """Candidates as slices, mixed in each layer by p and over exits by q (paper Eq. 8-11).

        E_k     = Dropout(LayerNorm_k((item + position embedding)[..., :d_k]))
        H_l     = sum_k p_k pad(T_k,l(X_k,l; E_k)),  X_k,1 = E_k,  X_k,l = H_(l-1)[..., :d_k]
        output  = sum_l q_l H_l

    The masked dimensions of a candidate are not computed; its output is padded with zeros instead. With
    one-hot p and q the supernet computes what `extract` returns for that candidate and depth.

    Args:
        space: the candidates and depths.
        num_items: V; item ids are 1..V and 0 is padding.
        max_length: the most positions that a sequence may have.
        dropout: share of values dropped after the embeddings and before each residual sum.
    """

    def __init__(self, space: CandidateSpace, num_items: int, max_length: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.space = space
        self.num_items = num_items
        self.max_length = max_length
        self.dropout = dropout
        self.item_embedding = nn.Embedding(num_items + 1, space.hidden_size, padding_idx=0)
        self.position_embedding = nn.Embedding(max_length, space.hidden_size)
        self.hidden_sizes = [space.sizes(candidate)[0] for candidate in range(len(space))]
        self.embedding_norms = nn.ModuleList(
            nn.LayerNorm(hidden, eps=LAYER_NORM_EPS) for hidden in self.hidden_sizes
        )
        layer_class = IndependentLayer if space.weights == "independent" else SharedLayer
        self.layers = nn.ModuleList(layer_class(space, dropout) for _ in range(space.num_layers))
        self.controllers = Controllers(len(space), space.num_layers)
        init_embeddings(self.item_embedding, self.position_embedding)

    def weight_parameters(self) -> list[nn.Parameter]:
        """W: every parameter but the controllers'."""
        controllers = {id(parameter) for parameter in self.controllers.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in controllers]

    def _layers(self) -> Iterator[CandidateLayer]:
        for layer in self.layers:
            assert isinstance(layer, IndependentLayer | SharedLayer)
            yield layer

    def forward(self, item_ids: Tensor, width_weights: Tensor, depth_weights: Tensor) -> Tensor:
        """The mixed output; candidates and layers of weight zero are not computed.

        Args:
            item_ids: int64 (B, N), left-aligned, 0 is padding.
            width_weights: p, (K,), used in every layer.
            depth_weights: q, (L,).

        Returns:
            (B, N, d); zeros at padding and in dimensions that no chosen candidate has.
        """
        packing = Packing(item_ids > 0)
        return packing.unpack(self._encode(item_ids, width_weights, depth_weights, packing))

    def _encode(
        self,
        item_ids: Tensor,
        width_weights: Tensor,
        depth_weights: Tensor,
        packing: Packing,
        *,
        last_only: bool = False,
        shut: ShutGates = (None, None),
    ) -> Tensor:
        """The mixed output at the T real positions, (T, d); at the last of each sequence alone, (B, d)."""
        widths, depths = width_weights.tolist(), depth_weights.tolist()
        opened = [k for k, weight in enumerate(widths) if weight != 0]
        exits = [layer for layer, weight in enumerate(depths) if weight != 0]
        if not opened or not exits:
            raise ValueError(f"some weight must differ from zero, got {widths=}, {depths=}")
        deepest_opened = exits[-1]
        # Small first: each partial sum is padded only to the next candidate's width.
        active = sorted({*opened, *_given(shut[0])}, key=lambda k: (self.hidden_sizes[k], k))
        exits = sorted({*exits, *_given(shut[1])})
        embedded = packing.pack(embed(item_ids, self.item_embedding, self.position_embedding))
        embeddings = {}
        for k in active:
            normed = self.embedding_norms[k](embedded[..., : self.hidden_sizes[k]])
            embeddings[k] = dropout(normed, self.dropout, self.training)
        mixed: Tensor | None = None
        output: Tensor | None = None
        for index, layer in enumerate(self._layers()):
            if index > exits[-1]:
                break
            # Nothing follows the deepest exit, so of its layer other outputs are not needed.
            final = last_only and index == exits[-1]
            previous, mixed = mixed, None
            for k in active:
                size = self.hidden_sizes[k]
                x = embeddings[k] if previous is None else previous[..., :size]
                # What comes out of a shut gate has no part in the loss: its own gradients are all zeros.
                has_part = widths[k] != 0 and index <= deepest_opened
                with torch.set_grad_enabled(torch.is_grad_enabled() and has_part):
                    y = layer(k, x, embeddings[k], packing, last_only=final)
                y = width_weights[k] * y
                mixed = y if mixed is None else F.pad(mixed, (0, size - mixed.shape[-1])) + y
            if index in exits:
                assert mixed is not None  # some candidate is active
                found = mixed.index_select(0, packing.last_rows) if last_only and not final else mixed
                exited = depth_weights[index] * found
                output = exited if output is None else output + exited
        assert output is not None  # some exit is open
        return F.pad(output, (0, self.space.hidden_size - output.shape[-1]))

    def scores(
        self, item_ids: Tensor, lengths: Tensor, width_weights: Tensor, depth_weights: Tensor
    ) -> Tensor:
        """Scores float32 (B, V + 1) for histories (B, N) of `lengths` (B,); see `forward`."""
        check_lengths(item_ids, lengths)
        packing = Packing(item_ids > 0)
        outputs = self._encode(item_ids, width_weights, depth_weights, packing, last_only=True)
        return item_scores(outputs, self.item_embedding.weight)

    def loss(
        self,
        batch: Batch,
        width_weights: Tensor,
        depth_weights: Tensor,
        negatives: Tensor | None = None,
        *,
        shut: ShutGates = (None, None),
    ) -> Tensor:
        """Mean cross-entropy over the batch's targets, a scalar; see `SequentialRecommender.loss`.

        `shut` are a candidate and an exit that are computed although their weights are zero, so that these
        weights have gradients; nothing is held of how they are computed.
        """
        packing = Packing(batch.item_ids > 0)
        outputs = self._encode(
            batch.item_ids, width_weights, depth_weights, packing, last_only=batch.last_only, shut=shut
        )
        targets = batch.targets.amax(dim=1) if batch.last_only else packing.pack(batch.targets)
        return item_loss(outputs, targets, self.item_embedding, negatives)

    def hard_choice(
        self,
        *,
        max_flops: int | None = None,
        candidates: Collection[int] | None = None,
        depths: Collection[int] | None = None,
    ) -> tuple[int, int]:
        """(k*, n*): the candidate (from 0) and the number of layers of the largest controller weights.

        Ties go to the larger network. With `max_flops` (of one sequence of `max_length` positions) the most
        probable pair within the bound is taken. `candidates` (from 0) and `depths` (from 1) are those that
        may be taken; None for all.

        Raises:
            InputError: no pair is within `max_flops`.
        """
        # CPU floats: a comparison of equals must not depend on the device.
        alpha = F.log_softmax(self.controllers.alpha.detach().double().cpu(), dim=0).tolist()
        beta = F.log_softmax(self.controllers.beta.detach().double().cpu(), dim=0).tolist()
        best, best_key = None, None
        smallest = None
        for k in range(len(self.space)) if candidates is None else sorted(candidates):
            for layers in range(1, self.space.num_layers + 1) if depths is None else sorted(depths):
                flops = network_flops(self.space.architecture(k, layers), self.max_length)
                smallest = flops if smallest is None else min(smallest, flops)
                key = (alpha[k] + beta[layers - 1], flops)
                if (max_flops is None or flops <= max_flops) and (best_key is None or key > best_key):
                    best, best_key = (k, layers), key
        if best is None:
            raise InputError(
                f"max_flops={max_flops} leaves no architecture: the smallest of the space needs "
                f"{smallest} FLOPs at {self.max_length} positions"
            )
        return best

    def derive(self, *, max_flops: int | None = None) -> Architecture:
        """The architecture of the hard choice (paper Eq. 18); see `hard_choice`."""
        return self.space.architecture(*self.hard_choice(max_flops=max_flops))

    @torch.no_grad()
    def extract(self, architecture: Architecture) -> SequentialRecommender:
        """The stand-alone network of an architecture of this space, with the supernet's weights copied.

        It is in training or evaluation mode as the supernet is.
        """
        candidate = self.space.candidate_of(architecture)
        size = self.hidden_sizes[candidate]
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn only to be replaced
            model = SequentialRecommender(architecture, self.num_items, self.max_length, self.dropout)
        model = model.to(self.item_embedding.weight.device)
        model.item_embedding.weight.copy_(self.item_embedding.weight[:, :size])
        model.position_embedding.weight.copy_(self.position_embedding.weight[:, :size])
        model.embedding_norm.load_state_dict(self.embedding_norms[candidate].state_dict())
        for target, source in zip(model.layers, self._layers(), strict=False):
            target.load_state_dict(source.state_of(candidate))
        return model.train(self.training)

    def save(self, path: Path | str) -> None:
        """Write the supernet as one safetensors file that also says what it is."""
        description = {
            "space": self.space.to_dict(),
            "num_items": self.num_items,
            "max_length": self.max_length,
            "dropout": self.dropout,
        }
        save_weights(self, Path(path), metadata={"supernet": json.dumps(description)})

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu") -> "Supernet":
        """Read a file that `save` wrote, in evaluation mode.

        Raises:
            InputError: the file is missing, or is not a supernet.
        """
        if not Path(path).is_file():
            raise InputError(f"there is no supernet file {path}")
        try:
            with safe_open(path, framework="pt", device=device) as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(f"{path} is not a supernet: {error}") from error
        if "supernet" not in metadata:
            raise InputError(f"{path} is not a supernet: its metadata lack 'supernet'")
        description = json.loads(metadata["supernet"])
        space = CandidateSpace.from_dict(description.pop("space"))
        supernet = cls(space, **description).to(device)
        supernet.load_state_dict(state)
        return supernet.eval()


def _given(index: int | None) -> tuple[int, ...]:
    return () if index is None else (index,)
