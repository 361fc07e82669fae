"""The warm-up: the supernet's weights learn alone before any search begins."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from easrec.allocator import trim_heap
from easrec.compute import compile_layers
from easrec.data.batches import Batch
from easrec.data.holdout import hold_out_last_targets
from easrec.data.sequences import SplitData
from easrec.models.architecture import CandidateSpace
from easrec.nas.resources import network_flops
from easrec.nas.search_config import SearchConfig, WarmupPaths
from easrec.nas.supernet import Supernet
from easrec.training import (
    EpochClock,
    EpochReport,
    OnEpoch,
    check_weights,
    checked_batches,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
    seeded,
    training_form,
)
from easrec.weight_steps import WeightSteps


@dataclass(frozen=True, slots=True)
class WarmUp:
    """A supernet after its warm-up, with its optimiser: where any number of searches can begin."""

    supernet: Supernet
    optimizer_state: dict[str, Any]
    """See `easrec.weight_steps.WeightSteps.state_dict`."""
    owner: str
    """Fingerprint of data, space and settings: a search that begins here must have the same."""
    epochs: list[EpochReport]
    micro_batch_size: int | None
    """Sequences computed at once in the end: what was asked, or less where memory had run out."""


def run_fingerprint(
    data: SplitData, space: CandidateSpace, stage: str, settings: dict[str, Any], initial: str = ""
) -> str:
    """What a checkpoint must agree in to be resumed: data, space, settings, first weights."""
    return fingerprint(stage, data.checksum, data.num_items, space.to_dict(), settings, initial)


def weight_steps(supernet: Supernet, config: SearchConfig, device: str) -> WeightSteps:
    """The optimiser of the weights W, the same in warm-up and search."""
    return WeightSteps(
        supernet.weight_parameters(),
        supernet.item_embedding,
        learning_rate=config.learning_rate,
        loss=config.loss,
        num_negatives=config.num_negatives,
        micro_batch_size=config.micro_batch_size,
        precision=config.precision,
        device=device,
    )


def search_data(data: SplitData, config: SearchConfig) -> SplitData:
    """What warm-up and search see of a split: all but the test, or training alone (`train_split`)."""
    return data if config.controller_data == "valid" else hold_out_last_targets(data)


def warm_up(
    data: SplitData,
    space: CandidateSpace,
    config: SearchConfig,
    *,
    device: str = "cpu",
    checkpoint_dir: Path | str | None = None,
    on_epoch: OnEpoch | None = None,
) -> WarmUp:
    """Train the supernet's weights alone, as `config.warmup_paths` says; independent of the trade-off.

    Args:
        data: the split; only training sequences are used.
        space: candidates and depths.
        config: settings; see `SearchConfig.warmup_settings` for those that matter here.
        device: where to train.
        checkpoint_dir: where to leave a checkpoint after each epoch, and to resume from.
        on_epoch: called after each epoch.

    Raises:
        InputError: the data have nothing to train on, or the checkpoint belongs to another run.
        NonFiniteLossError: the loss, or a weight, became NaN or infinite.
        MemoryExhaustedError: not even one sequence at a time fits into memory.
    """
    data = search_data(data, config)
    owner = run_fingerprint(data, space, "warmup", config.warmup_settings())
    with seeded(config.seed, "init", 0, device):
        supernet = Supernet(space, data.num_items, config.max_length, config.dropout).to(device)
    if config.compile:
        compile_layers(supernet.layers, device)
    weights = weight_steps(supernet, config, device)
    epochs: list[EpochReport] = []
    if state := load_checkpoint(checkpoint_dir, owner):
        supernet.load_state_dict(state["supernet"])
        weights.load_state_dict(state["weights"])
        epochs = [EpochReport(**epoch) for epoch in state["epochs"]]
    supernet.train()
    for epoch in range(len(epochs) + 1, config.warmup_epochs + 1):
        clock, begun = EpochClock(), weights.num_sequences
        losses = []
        with seeded(config.seed, "warmup", epoch, device):
            for step, batch in enumerate(epoch_batches(data, space, config, epoch), 1):
                # Drawn before the step, which may compute its loss in parts, and anew where memory runs out.
                drawn = paths(space, config.warmup_paths, device)
                losses.append(
                    weights.step(
                        batch,
                        partial(_mean_loss, supernet, drawn),
                        stage="warmup",
                        epoch=epoch,
                        step=step,
                    )
                )
        metrics = {"loss": sum(losses) / len(losses), "steps": float(len(losses))}
        clock.trained(weights.num_sequences - begun)
        check_weights(
            supernet.parameters(),
            stage="warmup",
            epoch=epoch,
            steps=len(losses),
            learning_rate=config.learning_rate,
        )
        epochs.append(clock.report("warmup", epoch, config.warmup_epochs, metrics))
        save_checkpoint(
            checkpoint_dir,
            {
                "supernet": supernet.state_dict(),
                "weights": weights.state_dict(),
                "epochs": [report.to_dict() for report in epochs],
            },
            owner,
        )
        trim_heap()
        if on_epoch is not None:
            on_epoch(epochs[-1])
    return WarmUp(supernet.eval(), weights.state_dict(), owner, epochs, weights.micro_batches.size)


def paths(space: CandidateSpace, kind: WarmupPaths, device: str = "cpu") -> list[tuple[Tensor, Tensor]]:
    """p (K,) and q (L,) of the networks that a step of the warm-up trains; its loss is the mean of theirs.

    `mixture` is one, p = 1/K and q = 1/L. `sandwich` are three with one-hot p and q: the largest candidate at
    the full depth, the smallest at depth 1, and one drawn from torch's global generator, all equally likely
    (the sandwich rule of Yu and Huang, 2019, "Universally slimmable networks", with one network between).
    """
    num_candidates, num_layers = len(space), space.num_layers
    if kind == "mixture":
        width = torch.full((num_candidates,), 1 / num_candidates, device=device)
        depth = torch.full((num_layers,), 1 / num_layers, device=device)
        return [(width, depth)]
    smallest, largest = extremes(space)
    drawn = int(torch.randint(num_candidates, ())), int(torch.randint(num_layers, ()))
    ends = (largest, num_layers - 1), (smallest, 0)
    widths, depths = torch.eye(num_candidates, device=device), torch.eye(num_layers, device=device)
    return [(widths[candidate], depths[layer]) for candidate, layer in (*ends, drawn)]


def extremes(space: CandidateSpace) -> tuple[int, int]:
    """The candidates, from 0, whose networks have the fewest and the most FLOPs."""
    by_flops = sorted(range(len(space)), key=lambda k: network_flops(space.architecture(k, 1), 1))
    return by_flops[0], by_flops[-1]


def _mean_loss(
    supernet: Supernet, drawn: list[tuple[Tensor, Tensor]], part: Batch, negatives: Tensor | None
) -> Tensor:
    losses = [supernet.loss(part, width, depth, negatives) for width, depth in drawn]
    return sum(losses[1:], losses[0]) / len(losses)


def epoch_batches(
    data: SplitData, space: CandidateSpace, config: SearchConfig, epoch: int
) -> Iterator[Batch]:
    """Training batches of an epoch of the whole run, warm-up epochs counted first."""
    form = training_form(space)
    return checked_batches(
        data, config.max_length, config.batch_size, form=form, seed=config.seed, epoch=epoch
    )
