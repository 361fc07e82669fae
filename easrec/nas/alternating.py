"""The loop of all searches over a supernet: steps of the weights and of the controllers in turn.

What makes one of them a method of its own is an object: `easrec.nas.search` has EASRec's; those that it is
compared with are in `easrec.nas.darts`, `easrec.nas.proxylessnas` and `easrec.nas.recnas`.

Legend: K candidates, L exits.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from easrec.allocator import trim_heap
from easrec.compute import autocast, compile_layers
from easrec.data.batches import Batch
from easrec.data.sequences import SplitData
from easrec.errors import InputError
from easrec.evaluation.layer_latency import layer_latencies_ms
from easrec.micro_batches import MicroBatches, RandomState
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.nas.course import (
    HARD_CHOICE_NDCG,
    check_bound,
    hard_choice_ndcg,
    has_ended,
    planned_controller_steps,
    validation_stream,
)
from easrec.nas.resources import candidate_costs
from easrec.nas.search_config import SearchConfig
from easrec.nas.supernet import Supernet
from easrec.nas.warmup import WarmUp, epoch_batches, run_fingerprint, search_data, warm_up, weight_steps
from easrec.training import (
    EpochClock,
    EpochReport,
    OnEpoch,
    check_finite,
    check_weights,
    load_checkpoint,
    move,
    save_checkpoint,
    scores_explained,
    seeded,
    state_digest,
)
from easrec.weight_steps import WeightSteps

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a search stands."""

    step: int
    """Architecture steps so far."""
    planned_steps: int
    """Architecture steps of the whole search."""

    @property
    def share(self) -> float:
        """Of the planned steps, from 0."""
        return self.step / max(1, self.planned_steps)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found, and how."""

    architecture: Architecture
    candidate: int
    """Index of the derived candidate, from 0."""
    num_layers: int
    epochs: list[EpochReport]
    """Reports of the search's epochs (the warm-up has its own)."""
    supernet: Supernet
    """As it was at the end of the search, in evaluation mode."""
    warm_supernet: Supernet
    """As it was at the end of the warm-up: retraining takes its weights from here."""
    search_s: float
    """Wall time of all search epochs in seconds, those before a resume too."""
    micro_batch_size: int | None
    """Sequences computed at once in the end: what was asked, or less where memory had run out."""


class Choosing(ABC):
    """What a method does with the controllers alpha (K,) and beta (L,) of one supernet, in one search.

    Not every method has something to do at each of the places where nothing is done here.
    """

    name: ClassVar[str]
    """Its stream of random numbers."""
    weights_first: ClassVar[bool] = False
    """Whether the controllers' step follows the weights' steps that it goes with, or precedes them."""

    @abstractmethod
    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """The optimiser of alpha and beta."""

    @abstractmethod
    def sample(self, progress: Progress) -> tuple[Tensor, Tensor]:
        """p (K,) and q (L,) of a weight step, without gradients."""

    @abstractmethod
    def gradients(self, batch: Batch) -> tuple[Tensor, Figures, tuple[Tensor, Tensor]]:
        """The loss of a batch of validation targets, its parts, and its gradients for alpha and beta.

        All micro-batches of a step are computed from the same state of torch's generator.
        """

    @abstractmethod
    def choice(self) -> tuple[int, int]:
        """The candidate, from 0, and the number of layers that would be derived now."""

    @abstractmethod
    def figures(self) -> Figures:
        """What an epoch's report tells of it beside the choice."""

    def begin_epoch(self) -> None:  # noqa: B027
        """Before an epoch's first step."""

    def begin_step(self, progress: Progress) -> None:  # noqa: B027
        """Before a controllers' step."""

    def end_step(self) -> None:  # noqa: B027
        """After the controllers' optimiser's step."""

    def end_epoch(self, progress: Progress) -> None:  # noqa: B027
        """After an epoch's last step, before its report."""

    def cause(self, parts: Figures) -> str | None:
        """Why a loss with these parts is not finite, where that is known and not the learning rate."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed search needs to know beside alpha and beta."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """The inverse of `state_dict`."""


class Method(Protocol):
    """The settings of a method, a frozen dataclass."""

    title: ClassVar[str]
    """As people call it."""
    used: ClassVar[tuple[str, ...]]
    """Which of `OPTIONAL` it has a use for."""

    def to_dict(self) -> dict[str, Any]:
        """The method's name and its settings as a dictionary of JSON values."""
        ...

    def settings(self, config: SearchConfig) -> SearchConfig:
        """The settings of its paper, with what is left of `config`."""
        ...

    def start(self, supernet: Supernet, config: SearchConfig, costs: Tensor) -> Choosing:
        """The method at the begin of a search.

        Args:
            supernet: whose controllers it learns.
            config: settings of the search.
            costs: F_k, what one layer of each candidate costs, (K,).
        """
        ...


OPTIONAL = (
    "search_weights",
    "temperature",
    "resource",
    "depth_cost",
    "depth_refresh",
    "cost_probabilities",
    "accuracy_weight",
    "negligible_weight",
)
"""Settings of EASRec's search that some methods do not have. Those without a `tradeoff` want it to be 0."""


def without_unused(method: Method, config: SearchConfig) -> SearchConfig:
    """A configuration with the defaults in place of what a method has no use for."""
    defaults = SearchConfig()
    changed = {name: getattr(defaults, name) for name in OPTIONAL if name not in method.used}
    if "resource" not in method.used:
        changed["latencies_ms"] = ()
    if "tradeoff" not in method.used:
        changed["tradeoff"] = 0.0
    return replace(config, **changed)


def _refuse_unused(method: Method, config: SearchConfig) -> None:
    """Refuse, by `InputError`, what a method has no use for and yet is not at its default."""
    cleared = without_unused(method, config)
    for name in OPTIONAL:
        value = getattr(config, name)
        if value != getattr(cleared, name):
            raise InputError(f"{method.title} has no {name}: leave it at its default, got {value!r}")
    if config.tradeoff != cleared.tradeoff:
        raise InputError(f"{method.title} has no resource term: tradeoff must be 0, got {config.tradeoff}")


def alternate(
    method: Method,
    data: SplitData,
    space: CandidateSpace,
    config: SearchConfig,
    *,
    warm: WarmUp | None = None,
    device: str = "cpu",
    checkpoint_dir: Path | str | None = None,
    on_epoch: OnEpoch | None = None,
) -> SearchResult:
    """Search by a method: warm-up, then bilevel optimisation, then what the method chooses at the end.

    Args:
        method: how the controllers learn and choose.
        data: the split; weights learn from training targets, controllers from validation targets.
        space: candidates and depths.
        config: settings.
        warm: a warm-up with the same settings, to begin from; by default it is run here. The result is the
            same. Left as it is. (`warm_up` with the checkpoint directory of a finished warm-up gives that
            warm-up back.)
        device: where to train.
        checkpoint_dir: where to leave a checkpoint after each epoch, and to resume from; a resumed search
            gives what an undisturbed one would have given.
        on_epoch: called after each epoch, those of the warm-up too where it is run here.

    Raises:
        InputError: the data have nothing to train on, the checkpoint belongs to another run, `max_flops`
            leaves no architecture, or the method has no use for a setting.
        NonFiniteLossError: a loss, a weight or a score became NaN or infinite.
        MemoryExhaustedError: not even one sequence at a time fits into memory.
    """
    _refuse_unused(method, config)
    check_bound(space, config)
    whole_data, data = data, search_data(data, config)
    if not (data.valid.positions > data.starts[data.valid.rows]).any():
        raise InputError(f"data set {data.name!r} has no validation target with a history before it")
    if warm is None:
        warm_dir = None if checkpoint_dir is None else Path(checkpoint_dir) / "warmup"
        warm = warm_up(whole_data, space, config, device=device, checkpoint_dir=warm_dir, on_epoch=on_epoch)
    elif warm.owner != run_fingerprint(data, space, "warmup", config.warmup_settings()):
        raise InputError(
            "the warm-up was made with other data, another space or other settings than the search"
        )
    settings = {"search": config.to_dict(), "method": method.to_dict()}
    owner = run_fingerprint(data, space, "search", settings, state_digest(warm.supernet))
    with seeded(config.seed, "init", 0, device):
        supernet = Supernet(space, data.num_items, config.max_length, config.dropout).to(device)
    supernet.load_state_dict(warm.supernet.state_dict())
    if config.compile:
        compile_layers(supernet.layers, device)
    weights = weight_steps(supernet, config, device)
    # A copy, since Adam updates the tensors of a loaded state in place and `warm` serves other searches.
    weights.load_state_dict(copy.deepcopy(warm.optimizer_state))
    state = load_checkpoint(checkpoint_dir, owner)
    latencies_ms = config.latencies_ms if state is None else tuple(state["latencies_ms"])
    if config.resource == "latency" and not latencies_ms:
        latencies_ms = layer_latencies_ms(space, config.max_length, device=device)
    costs = candidate_costs(space, config.resource, config.max_length, latencies_ms=latencies_ms).to(device)
    choosing = method.start(supernet, config, costs)
    optimizer = choosing.optimizer(config.controller_learning_rate)
    epochs: list[EpochReport] = []
    iteration = 0
    if state is not None:
        supernet.load_state_dict(state["supernet"])
        weights.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["controller_optimizer"])
        choosing.load_state_dict(state["choosing"])
        epochs = [EpochReport(**epoch) for epoch in state["epochs"]]
        iteration = state["iteration"]
    alpha, beta = supernet.controllers.alpha, supernet.controllers.beta
    weights_learn = config.search_weights == "train"
    planned_steps = planned_controller_steps(data, space, config)
    for epoch in range(len(epochs) + 1, config.search_epochs + 1):
        if has_ended(epochs, config):
            break
        clock, num_sequences = EpochClock(), 0
        validation = validation_stream(data, config, epoch)
        losses: list[float] = []
        parts: list[Figures] = []
        choosing.begin_epoch()
        with seeded(config.seed, choosing.name, epoch, device):
            batches = epoch_batches(data, space, config, config.warmup_epochs + epoch)
            for step, batch in enumerate(batches, 1):
                # Those of an epoch, also where the weights are at rest and only the controllers learn.
                num_sequences += len(batch.item_ids)
                progress = Progress(iteration // config.controller_interval, planned_steps)
                # Of each `controller_interval` iterations the last has the controllers' step, or the first.
                controllers_turn = (iteration + choosing.weights_first) % config.controller_interval == 0
                if weights_learn and choosing.weights_first:
                    losses.append(_learn(weights, supernet, choosing, batch, progress, epoch, step))
                if controllers_turn:
                    # Alpha and beta learn without dropout, so that candidates are compared as they will be
                    # evaluated.
                    supernet.eval()
                    choosing.begin_step(progress)
                    asked, micro_batches = next(validation), weights.micro_batches
                    loss, found, (alpha.grad, beta.grad) = micro_batches.fitting(
                        asked,
                        partial(controller_gradients, choosing, asked, config, micro_batches, device),
                        f"the controllers' step {step} of search epoch {epoch}",
                    )
                    check_finite(
                        loss,
                        stage="search",
                        epoch=epoch,
                        step=step,
                        learning_rate=config.controller_learning_rate,
                        cause=choosing.cause(found),
                    )
                    optimizer.step()
                    choosing.end_step()
                    parts.append(found)
                if weights_learn and not choosing.weights_first:
                    losses.append(_learn(weights, supernet, choosing, batch, progress, epoch, step))
                iteration += 1
            choosing.end_epoch(Progress(iteration // config.controller_interval, planned_steps))
        clock.trained(num_sequences)
        for trained, learning_rate in (
            (supernet.weight_parameters(), config.learning_rate),
            ([alpha, beta], config.controller_learning_rate),
        ):
            check_weights(trained, stage="search", epoch=epoch, steps=step, learning_rate=learning_rate)
        candidate, num_layers = choosing.choice()
        metrics = {
            **_means([{"loss": loss} for loss in losses]),
            "steps": float(step),
            "candidate": float(candidate),
            "num_layers": float(num_layers),
            **_means(parts),
            **choosing.figures(),
        }
        if config.stop_on == "ndcg":
            chosen = space.architecture(candidate, num_layers)
            with scores_explained("search", epoch, step, config.learning_rate):
                metrics[HARD_CHOICE_NDCG] = hard_choice_ndcg(supernet.eval(), chosen, data, config, device)
        epochs.append(clock.report("search", epoch, config.search_epochs, metrics))
        save_checkpoint(
            checkpoint_dir,
            {
                "supernet": supernet.state_dict(),
                "weights": weights.state_dict(),
                "controller_optimizer": optimizer.state_dict(),
                "choosing": choosing.state_dict(),
                "epochs": [report.to_dict() for report in epochs],
                "iteration": iteration,
                "latencies_ms": tuple(latencies_ms),
            },
            owner,
        )
        trim_heap()
        if on_epoch is not None:
            on_epoch(epochs[-1])
    candidate, num_layers = choosing.choice()
    return SearchResult(
        architecture=space.architecture(candidate, num_layers),
        candidate=candidate,
        num_layers=num_layers,
        epochs=epochs,
        supernet=supernet.eval(),
        warm_supernet=warm.supernet,
        search_s=sum(report.duration_s for report in epochs),
        micro_batch_size=weights.micro_batches.size,
    )


def controller_gradients(
    choosing: Choosing, batch: Batch, config: SearchConfig, micro_batches: MicroBatches, device: str
) -> tuple[Tensor, Figures, tuple[Tensor, Tensor]]:
    """The loss of a controllers' step, its parts and its gradients, in micro-batches."""
    begun = RandomState(device)
    total, figures = torch.zeros(()), Figures()
    gradients: list[Tensor] = []
    for part, share in micro_batches.parts(batch):
        begun.restore()
        with autocast(device, config.precision):
            loss, parts, found = choosing.gradients(move(part, device))
        shared = [share * gradient for gradient in found]
        gradients = [a + b for a, b in zip(gradients, shared, strict=True)] if gradients else shared
        total = total + share * loss.detach().cpu()
        figures = {name: figures.get(name, 0.0) + share * value for name, value in parts.items()}
    of_alpha, of_beta = gradients
    return total, figures, (of_alpha, of_beta)


def _means(figures: list[Figures]) -> Figures:
    """The mean of each over steps, all of which have the same."""
    return {name: sum(one[name] for one in figures) / len(figures) for name in figures[0]} if figures else {}


def _learn(
    weights: WeightSteps,
    supernet: Supernet,
    choosing: Choosing,
    batch: Batch,
    progress: Progress,
    epoch: int,
    step: int,
) -> float:
    """A step of W at one sample of the controllers, which stay as they are; returns the loss."""
    supernet.train()
    width, depth = choosing.sample(progress)
    return weights.step(
        batch,
        lambda part, negatives: supernet.loss(part, width, depth, negatives),
        stage="search",
        epoch=epoch,
        step=step,
    )


def probabilities(width: Tensor, depth: Tensor) -> Figures:
    """p (K,) and q (L,) by the names that reports give them."""
    figures = {f"candidate_{k}_probability": value for k, value in enumerate(width.tolist())}
    return figures | {f"exit_{layer}_probability": value for layer, value in enumerate(depth.tolist(), 1)}
