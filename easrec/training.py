"""What warm-up, search and retraining share: seeds, reports, checkpoints, the check of the loss."""

import hashlib
import json
import logging
import math
import pickle
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from easrec.data.batches import Batch, Form, num_training_batches, training_batches
from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.evaluation.ranking import NonFiniteScoresError
from easrec.files import write_atomically
from easrec.micro_batches import is_out_of_memory
from easrec.models.architecture import Architecture, CandidateSpace

Stage = Literal["warmup", "search", "retrain"]

CHECKPOINT = "checkpoint.pt"


FEW_STEPS = 15
"""Epochs of fewer steps than this are warned of: a schedule in epochs then means very little training."""

logger = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; training on would only hide it."""


@dataclass(frozen=True, slots=True)
class EpochReport:
    """What `on_epoch` is called with after each epoch."""

    stage: Stage
    epoch: int
    """Counted from 1."""
    num_epochs: int
    """The most epochs that this stage may take."""
    metrics: dict[str, float]
    duration_s: float
    """Wall time of the epoch, validation included."""
    timestamp_ms: int
    """When the epoch ended, in milliseconds since 1970."""
    sequences_per_s: float
    """Training sequences in a second of the epoch's training, the validation after it not counted."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary of JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


OnEpoch = Callable[[EpochReport], None]


class EpochClock:
    """Times an epoch from its making on: its training, then what follows it."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()
        self._sequences_per_s = 0.0

    def trained(self, sequences: int) -> None:
        """Training has ended, after `sequences` sequences; validation may follow."""
        self._sequences_per_s = sequences / (time.perf_counter() - self._start_s)

    def report(self, stage: Stage, epoch: int, num_epochs: int, metrics: dict[str, float]) -> EpochReport:
        """The report of the epoch, which has ended."""
        return EpochReport(
            stage=stage,
            epoch=epoch,
            num_epochs=num_epochs,
            metrics=metrics,
            duration_s=time.perf_counter() - self._start_s,
            timestamp_ms=time.time_ns() // 1_000_000,
            sequences_per_s=self._sequences_per_s,
        )


def training_form(architecture: Architecture | CandidateSpace) -> Form:
    """Whether a network learns from windows (every position a target) or from prefixes (the last one).

    Only causal attention can learn from every position at once: elsewhere a target would be seen.
    """
    return "prefixes" if architecture.attention == "linear_bidirectional" else "windows"


@contextmanager
def seeded(seed: int, stage: str, epoch: int, device: torch.device | str) -> Iterator[None]:
    """Run with torch's generators set from (seed, stage, epoch) alone; the caller's state comes back after.

    Because each epoch has a seed of its own, training that resumes after an epoch draws what an undisturbed
    one would have drawn.
    """
    sequence = np.random.SeedSequence((seed, zlib.crc32(stage.encode()), epoch))
    value = int(sequence.generate_state(1, np.uint64)[0] >> 1)
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed, which would seed every GPU there is.
        torch.default_generator.manual_seed(value)
        for one in devices:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(value)
        yield


def checked_batches(
    data: SplitData, max_length: int, batch_size: int, *, form: Form, seed: int, epoch: int
) -> Iterator[Batch]:
    """Training batches of an epoch; few of them are warned of in the first.

    Raises:
        InputError: there is not a single training target.
    """
    num_steps = num_training_batches(data, max_length, batch_size, form=form, seed=seed, epoch=epoch)
    if num_steps == 0:
        raise InputError(
            f"data set {data.name!r} has no training target: no user has the four interactions that one needs"
        )
    if num_steps < FEW_STEPS and epoch == 1:
        logger.warning(
            "an epoch has only %d steps of %d sequences; a smaller batch_size would train more",
            num_steps,
            batch_size,
        )
    return training_batches(data, max_length, batch_size, form=form, seed=seed, epoch=epoch)


def move(batch: Batch, device: torch.device | str) -> Batch:
    """The batch on `device`; copies to a GPU do not wait for it."""
    pinned = torch.device(device).type == "cuda"
    item_ids, targets = (
        ids.pin_memory().to(device, non_blocking=True) if pinned else ids.to(device)
        for ids in (batch.item_ids, batch.targets)
    )
    return replace(batch, item_ids=item_ids, targets=targets)


def check_finite(
    loss: Tensor, *, stage: Stage, epoch: int, step: int, learning_rate: float, cause: str | None = None
) -> float:
    """The loss as a float.

    Args:
        loss: of a step that has not been taken.
        stage: where.
        epoch: counted from 1.
        step: counted from 1.
        learning_rate: of the optimiser.
        cause: what is too high, with its value, if it is not the learning rate.

    Raises:
        NonFiniteLossError: it is NaN or infinite. Raised before the optimiser steps, so that weights stay
            as they were.
    """
    value = loss.item()
    if not math.isfinite(value):
        cause = cause or f"a learning rate that is too high ({learning_rate})"
        raise NonFiniteLossError(
            f"the loss is {value} in step {step} of {stage} epoch {epoch}; the likely cause is {cause}: "
            "lower it"
        )
    return value


def check_weights(
    weights: Iterable[Tensor], *, stage: Stage, epoch: int, steps: int, learning_rate: float
) -> None:
    """Refuse weights that the last steps of an epoch have spoilt, before anything is done with them.

    A loss is that of the weights before its step: the next one would tell, if there were one.

    Raises:
        NonFiniteLossError: one of them is NaN or infinite.
    """
    if not all(bool(weight.detach().isfinite().all()) for weight in weights):
        raise NonFiniteLossError(
            f"weights are NaN or infinite after step {steps} of {stage} epoch {epoch}; the likely cause is a "
            f"learning rate that is too high ({learning_rate}): lower it"
        )


@contextmanager
def scores_explained(stage: Stage, epoch: int, steps: int, learning_rate: float) -> Iterator[None]:
    """Let scores that finite weights overflow into, in a validation within a `with`, say what a loss would.

    Raises:
        NonFiniteLossError: a score is NaN or infinite.
    """
    try:
        yield
    except NonFiniteScoresError as error:
        raise NonFiniteLossError(
            f"scores are NaN or infinite after step {steps} of {stage} epoch {epoch}; the likely cause is a "
            f"learning rate that is too high ({learning_rate}): lower it"
        ) from error


def fingerprint(*parts: Any) -> str:
    """A digest of JSON values: equal parts give equal digests, whatever the order of their keys."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def state_digest(module: nn.Module) -> str:
    """A digest of a module's weights: equal weights give equal digests."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(directory: Path | str | None, state: dict[str, Any], owner: str) -> None:
    """Write the state of a run after an epoch, atomically; without a directory nothing is written.

    Args:
        directory: where; made if need be.
        state: tensors, numbers, strings, lists and dictionaries.
        owner: fingerprint of the run that the state belongs to.

    Raises:
        DiskFullError: there is no room for it; the checkpoint of the epoch before is still there.
    """
    if directory is not None:
        whole = state | {"owner": owner}

        def write(temporary: Path) -> None:
            # Given a path, torch tells of a full disk in an error of its own that says nothing of it.
            with temporary.open("wb") as file:
                torch.save(whole, file)

        write_atomically(Path(directory) / CHECKPOINT, write)


def load_checkpoint(directory: Path | str | None, owner: str) -> dict[str, Any] | None:
    """The state that a run of the same fingerprint left, its tensors on the CPU; None where there is none.

    Raises:
        InputError: the file cannot be read, or belongs to a run with other settings or other data.
    """
    if directory is None or not (path := Path(directory) / CHECKPOINT).is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, OSError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}); delete it to begin again"
        ) from error
    if state.get("owner") != owner:
        raise InputError(
            f"the checkpoint {path} belongs to a run with other settings or other data; use another "
            "directory, or delete it to begin again"
        )
    return state
