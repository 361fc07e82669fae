"""Retraining: a derived network trained by itself, with early stopping on validation."""

import copy
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from easrec.allocator import trim_heap
from easrec.compute import Precision, check_precision, compile_layers
from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.evaluation.protocols import evaluate, selection_protocol
from easrec.models.architecture import Architecture
from easrec.models.transformer import SequentialRecommender
from easrec.training import (
    EpochClock,
    EpochReport,
    OnEpoch,
    check_weights,
    checked_batches,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
    scores_explained,
    seeded,
    state_digest,
    training_form,
)
from easrec.weight_steps import Loss, WeightSteps, check_loss_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainConfig:
    """Settings of a retraining."""

    seed: int = 0
    """Seed of fresh weights, batches and dropout."""
    max_length: int = 50
    """Positions of a sequence (N)."""
    max_epochs: int = 200
    """The most epochs."""
    patience: int = 10
    """Epochs without a better validation NDCG@10 after which training stops."""
    batch_size: int = 128
    """Sequences in a batch: windows with causal attention, prefixes otherwise."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    dropout: float = 0.2
    """Share of values dropped after the embeddings and before each residual sum."""
    loss: Loss = "full"
    """Cross-entropy over all items (`full`), or over the target and some others (`sampled`)."""
    num_negatives: int = 1024
    """Items that the targets of a batch compete with where the loss is sampled."""
    micro_batch_size: int | None = None
    """Sequences computed at once; None for the whole batch. Less memory, the same gradients. Where memory
    runs out all the same, training goes on with half as many."""
    precision: Precision = "float32"
    """Of the matrix products of training: `bfloat16` is for GPUs, with norms, state and loss in float32.
    Evaluation is in float32 always."""
    compile: bool = False
    """Let torch compile the layers: seconds to a minute once, then faster steps, mostly on a GPU."""

    def __post_init__(self) -> None:
        for name in ("max_length", "max_epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, got {self.seed}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must lie in [0, 1), got {self.dropout}")
        check_loss_settings(self.loss, self.num_negatives, self.micro_batch_size)
        check_precision(self.precision)

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """A retrained network."""

    model: SequentialRecommender
    """With the weights of its best epoch, in evaluation mode."""
    best_epoch: int
    """The epoch of the best validation NDCG@10, counted from 1."""
    epochs: list[EpochReport]
    retrain_s: float
    """Wall time of all epochs in seconds, those before a resume too."""
    stopped_early: bool
    """Whether patience was exhausted, be it in the last of `max_epochs`."""
    micro_batch_size: int | None
    """Sequences computed at once in the end: what was asked, or less where memory had run out."""


def _initial_model(
    architecture: Architecture,
    data: SplitData,
    config: RetrainConfig,
    initial: SequentialRecommender | None,
) -> SequentialRecommender:
    if initial is None:
        return SequentialRecommender(architecture, data.num_items, config.max_length, config.dropout)
    expected = (architecture, data.num_items, config.max_length)
    found = (initial.architecture, initial.num_items, initial.max_length)
    if found != expected:
        raise InputError(
            "the initial network must have the architecture, number of items and max_length of the "
            f"retraining, got {found} and not {expected}"
        )
    model = SequentialRecommender(architecture, data.num_items, config.max_length, config.dropout)
    model.load_state_dict(initial.state_dict())
    return model


def retrain(
    architecture: Architecture,
    data: SplitData,
    config: RetrainConfig,
    *,
    initial: SequentialRecommender | None = None,
    device: str = "cpu",
    checkpoint_dir: Path | str | None = None,
    on_epoch: OnEpoch | None = None,
) -> RetrainResult:
    """Train a network with cross-entropy until validation NDCG@10 stops growing (paper Algorithm 1, end).

    Early stopping looks at NDCG@10 under the data set's selection protocol: `unseen`, or `full` where
    histories repeat items.

    Args:
        architecture: what to train.
        data: the split; training and validation targets are used, test targets never.
        config: settings.
        initial: a network of this architecture to take the weights from (see `Supernet.extract`); by default
            training starts afresh. Left as it is.
        device: where to train.
        checkpoint_dir: where to leave a checkpoint after each epoch, and to resume from; a resumed training
            gives what an undisturbed one would have given.
        on_epoch: called after each epoch.

    Raises:
        InputError: the data have nothing to train on, `initial` does not fit, or the checkpoint belongs to
            another run.
        NonFiniteLossError: the loss, a weight or a score became NaN or infinite.
        MemoryExhaustedError: not even one sequence at a time fits into memory.
    """
    with seeded(config.seed, "init", 0, device):
        model = _initial_model(architecture, data, config, initial).to(device)
    owner = fingerprint(
        "retrain",
        data.checksum,
        data.num_items,
        architecture.to_dict(),
        config.to_dict(),
        None if initial is None else state_digest(initial),
    )
    return train(
        model, data, config, owner=owner, device=device, checkpoint_dir=checkpoint_dir, on_epoch=on_epoch
    )


def train(
    model: SequentialRecommender,
    data: SplitData,
    config: RetrainConfig,
    *,
    owner: str,
    device: str = "cpu",
    checkpoint_dir: Path | str | None = None,
    on_epoch: OnEpoch | None = None,
) -> RetrainResult:
    """Train a network on `device`, in place; what is not said here is as of `retrain`.

    Args:
        model: with its first weights.
        data: the split.
        config: settings.
        owner: fingerprint of all that the result depends on: checkpoints of others are refused.
        device: where the network is.
        checkpoint_dir: where to leave checkpoints, and to resume from.
        on_epoch: called after each epoch.
    """
    weights = WeightSteps(
        model.parameters(),
        model.item_embedding,
        learning_rate=config.learning_rate,
        loss=config.loss,
        num_negatives=config.num_negatives,
        micro_batch_size=config.micro_batch_size,
        precision=config.precision,
        device=device,
    )
    if config.compile:
        compile_layers(model.layers, device)
    form = training_form(model.architecture)
    protocol = selection_protocol(data)
    criterion = f"valid/{protocol}/ndcg_at_10"
    epochs: list[EpochReport] = []
    best_epoch, best_value, best_state = 0, -math.inf, copy.deepcopy(model.state_dict())
    if state := load_checkpoint(checkpoint_dir, owner):
        model.load_state_dict(state["model"])
        weights.load_state_dict(state["weights"])
        epochs = [EpochReport(**epoch) for epoch in state["epochs"]]
        best_epoch, best_state = state["best_epoch"], state["best_state"]
        best_value = epochs[best_epoch - 1].metrics[criterion]
    for epoch in range(len(epochs) + 1, config.max_epochs + 1):
        if epoch - 1 - best_epoch >= config.patience:
            break
        clock = EpochClock()
        model.train()
        losses = []
        settings: dict[str, Any] = {"form": form, "seed": config.seed, "epoch": epoch}
        begun = weights.num_sequences
        with seeded(config.seed, "retrain", epoch, device):
            batches = checked_batches(data, config.max_length, config.batch_size, **settings)
            for step, batch in enumerate(batches, 1):
                losses.append(weights.step(batch, model.loss, stage="retrain", epoch=epoch, step=step))
        clock.trained(weights.num_sequences - begun)
        check_weights(
            model.parameters(),
            stage="retrain",
            epoch=epoch,
            steps=len(losses),
            learning_rate=config.learning_rate,
        )
        model.eval()
        with scores_explained("retrain", epoch, len(losses), config.learning_rate):
            validation = evaluate(
                model.scores,
                data,
                "valid",
                max_length=config.max_length,
                protocols=(protocol,),
                device=device,
            )
        metrics = {"loss": sum(losses) / len(losses), "steps": float(len(losses))}
        metrics |= {f"valid/{name}": value for name, value in validation.items()}
        epochs.append(clock.report("retrain", epoch, config.max_epochs, metrics))
        if metrics[criterion] > best_value:
            best_epoch, best_value = epoch, metrics[criterion]
            best_state = copy.deepcopy(model.state_dict())
        save_checkpoint(
            checkpoint_dir,
            {
                "model": model.state_dict(),
                "weights": weights.state_dict(),
                "epochs": [report.to_dict() for report in epochs],
                "best_epoch": best_epoch,
                "best_state": best_state,
            },
            owner,
        )
        trim_heap()
        if on_epoch is not None:
            on_epoch(epochs[-1])
    model.load_state_dict(best_state)
    return RetrainResult(
        model=model.eval(),
        best_epoch=best_epoch,
        epochs=epochs,
        retrain_s=sum(report.duration_s for report in epochs),
        stopped_early=len(epochs) - best_epoch >= config.patience,
        micro_batch_size=weights.micro_batches.size,
    )
