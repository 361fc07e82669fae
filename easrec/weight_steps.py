"""A step of the weights: the loss, in micro-batches where memory is short, its gradients, the optimiser.

Legend: B sequences in a batch, S negatives, V items.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from easrec.compute import Precision, autocast
from easrec.data.batches import Batch
from easrec.errors import InputError
from easrec.micro_batches import MicroBatches
from easrec.training import Stage, check_finite, move

Loss = Literal["full", "sampled"]

LossOfBatch = Callable[[Batch, Tensor | None], Tensor]
"""A batch on the device, and the items that its targets compete with: (S,), or None for all items."""


def check_loss_settings(loss: Loss, num_negatives: int, micro_batch_size: int | None) -> None:
    """Refuse settings of a weight step that cannot be meant, by `InputError`."""
    if loss not in ("full", "sampled"):
        raise InputError(f"loss must be 'full' or 'sampled', got {loss!r}")
    if num_negatives < 1:
        raise InputError(f"num_negatives must be at least 1, got {num_negatives}")
    if micro_batch_size is not None and micro_batch_size < 1:
        raise InputError(f"micro_batch_size must be at least 1, got {micro_batch_size}")


class WeightSteps:
    """The optimiser of the weights, and the steps that it takes.

    With the full loss every item has a gradient in every step, and Adam updates them all. With the sampled
    one only the batch's items and the negatives have; SparseAdam then updates these rows of the item
    embedding and their moments, and touches no other.

    Args:
        parameters: the weights; those of `item_embedding` may be among them.
        item_embedding: the table of the items, (V + 1, D); its gradients become sparse for `loss="sampled"`.
        learning_rate: step size.
        loss: cross-entropy over all items, or over the target and `num_negatives` others.
        num_negatives: S; at most V are drawn.
        micro_batch_size: sequences that are computed at once; None for the whole batch. Gradients are those
            of the whole batch. Where memory runs out it is halved, see `micro_batches`.
        precision: in which the loss is computed, see `easrec.compute.autocast`.
        device: where the weights are.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        item_embedding: nn.Embedding,
        *,
        learning_rate: float,
        loss: Loss = "full",
        num_negatives: int = 1024,
        micro_batch_size: int | None = None,
        precision: Precision = "float32",
        device: torch.device | str = "cpu",
    ) -> None:
        parameters = list(parameters)
        self.num_sequences = 0
        """Sequences of all steps so far."""
        num_weights = sum(parameter.numel() for parameter in parameters)
        rows, columns = item_embedding.weight.shape
        sizes = f", {num_weights:,} weights, an item table of {rows:,} x {columns}"
        self.micro_batches = MicroBatches(micro_batch_size, device, sizes)
        """How many sequences are computed at once."""
        self._learning_rate = learning_rate
        self._precision: Precision = precision
        self._device = device
        self._num_items = item_embedding.num_embeddings - 1
        self._num_negatives = min(num_negatives, self._num_items) if loss == "sampled" else None
        item_embedding.sparse = loss == "sampled"
        dense = [p for p in parameters if loss == "full" or p is not item_embedding.weight]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(dense, lr=learning_rate, fused=True)
        ]
        if loss == "sampled":
            self._optimizers.append(torch.optim.SparseAdam([item_embedding.weight], lr=learning_rate))

    def step(self, batch: Batch, loss_of: LossOfBatch, *, stage: Stage, epoch: int, step: int) -> float:
        """Take one step and return the batch's loss, the mean over its targets.

        Raises:
            NonFiniteLossError: it is NaN or infinite; the weights are left as they were.
            MemoryExhaustedError: not even one sequence at a time fits into memory.
        """
        total = self.micro_batches.fitting(
            batch,
            partial(self._find_gradients, batch, loss_of, self._draw_negatives()),
            f"step {step} of {stage} epoch {epoch}",
        )
        value = check_finite(total, stage=stage, epoch=epoch, step=step, learning_rate=self._learning_rate)
        for optimizer in self._optimizers:
            optimizer.step()
        self.num_sequences += len(batch.item_ids)
        return value

    def _find_gradients(self, batch: Batch, loss_of: LossOfBatch, negatives: Tensor | None) -> Tensor:
        """Leave the batch's gradients with the weights and return its loss."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        total = torch.zeros(())
        for part, share in self.micro_batches.parts(batch):
            with autocast(self._device, self._precision):
                loss = loss_of(move(part, self._device), negatives)
            if share != 1:
                loss = loss * share
            loss.backward()
            total = total + loss.detach().cpu()
        return total

    def _draw_negatives(self) -> Tensor | None:
        """S distinct items, all equally likely, from torch's global generator."""
        if self._num_negatives is None:
            return None
        drawn = torch.randperm(self._num_items, device=self._device)[: self._num_negatives]
        return drawn + 1

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: the optimisers' moments, and the micro-batches that fitted."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "micro_batch_size": self.micro_batches.size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the state of another object of the same settings."""
        for optimizer, values in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        # Checkpoints of earlier versions have none.
        self.micro_batches.size = state.get("micro_batch_size", self.micro_batches.size)
