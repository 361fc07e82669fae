"""The loop of the searches that EASRec is compared with: architecture and weight steps in turn.

They share EASRec's supernet, candidates, data, reports and checkpoints. What makes each of them another
method is an object: `easrec.nas.darts`, `easrec.nas.proxylessnas`, `easrec.nas.recnas`.

Legend: K candidates, L exits.
"""

import copy
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
from easrec.models.architecture import CandidateSpace
from easrec.nas.course import (
    HARD_CHOICE_NDCG,
    check_bound,
    hard_choice_ndcg,
    has_ended,
    planned_controller_steps,
    validation_stream,
)
from easrec.nas.resources import candidate_costs
from easrec.nas.search import SearchResult
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


class Choosing(Protocol):
    """What a method does with the controllers alpha (K,) and beta (L,) of one supernet, in one search."""

    name: str
    """As it is written in messages and checkpoints."""

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """The optimiser of alpha and beta."""
        ...

    def sample(self, progress: Progress) -> tuple[Tensor, Tensor]:
        """p (K,) and q (L,) of a weight step, without gradients."""
        ...

    def begin_step(self, progress: Progress) -> None:
        """Draw what an architecture step is computed at: all of its micro-batches share it."""
        ...

    def gradients(self, batch: Batch) -> tuple[Tensor, Figures, tuple[Tensor, Tensor]]:
        """The loss of a batch of validation targets, its parts, and its gradients for alpha and beta."""
        ...

    def end_step(self) -> None:
        """After the optimiser's step."""
        ...

    def end_epoch(self, progress: Progress) -> None:
        """After an epoch's last step, before its report."""
        ...

    def choice(self) -> tuple[int, int]:
        """The candidate, from 0, and the number of layers that would be derived now."""
        ...

    def figures(self) -> Figures:
        """What an epoch's report tells of it beside the choice."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed search needs to know beside alpha and beta."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        ...


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
    "freeze_weights",
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
    """Search by a method; see `easrec.nas.search.search`, whose arguments, result and errors these are.

    Every `controller_interval` iterations begin with an architecture step on a batch of validation targets;
    each ends with a weight step on a training batch. Architecture steps are taken without dropout.
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
    with seeded(config.seed, "init", 0, device):
        supernet = Supernet(space, data.num_items, config.max_length, config.dropout).to(device)
    supernet.load_state_dict(warm.supernet.state_dict())
    settings = {"search": config.to_dict(), "method": method.to_dict()}
    owner = run_fingerprint(data, space, "search", settings, state_digest(warm.supernet))
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
    planned_steps = planned_controller_steps(data, space, config)
    for epoch in range(len(epochs) + 1, config.search_epochs + 1):
        if has_ended(epochs, config):
            break
        clock, begun = EpochClock(), weights.num_sequences
        validation = validation_stream(data, config, epoch)
        losses: list[float] = []
        parts: list[Figures] = []
        with seeded(config.seed, choosing.name, epoch, device):
            batches = epoch_batches(data, space, config, config.warmup_epochs + epoch)
            for step, batch in enumerate(batches, 1):
                progress = Progress(iteration // config.controller_interval, planned_steps)
                if iteration % config.controller_interval == 0:
                    supernet.eval()
                    choosing.begin_step(progress)
                    asked = next(validation)
                    loss, found, (alpha.grad, beta.grad) = weights.micro_batches.fitting(
                        asked,
                        partial(_gradients, choosing, asked, config, weights.micro_batches, device),
                        f"the architecture step {step} of search epoch {epoch}",
                    )
                    check_finite(
                        loss,
                        stage="search",
                        epoch=epoch,
                        step=step,
                        learning_rate=config.controller_learning_rate,
                    )
                    optimizer.step()
                    choosing.end_step()
                    parts.append(found)
                supernet.train()
                width, depth = choosing.sample(progress)
                losses.append(
                    weights.step(
                        batch,
                        partial(_loss_at, supernet, width, depth),
                        stage="search",
                        epoch=epoch,
                        step=step,
                    )
                )
                iteration += 1
            choosing.end_epoch(Progress(iteration // config.controller_interval, planned_steps))
        clock.trained(weights.num_sequences - begun)
        for trained, learning_rate in (
            (supernet.weight_parameters(), config.learning_rate),
            ([alpha, beta], config.controller_learning_rate),
        ):
            check_weights(trained, stage="search", epoch=epoch, steps=step, learning_rate=learning_rate)
        candidate, num_layers = choosing.choice()
        metrics = {
            "loss": sum(losses) / len(losses),
            "steps": float(len(losses)),
            "candidate": float(candidate),
            "num_layers": float(num_layers),
            **choosing.figures(),
        }
        metrics |= (
            {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]} if parts else {}
        )
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


def _gradients(
    choosing: Choosing, batch: Batch, config: SearchConfig, micro_batches: MicroBatches, device: str
) -> tuple[Tensor, Figures, tuple[Tensor, Tensor]]:
    """The loss of an architecture step, its parts and its gradients, in micro-batches."""
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


def _loss_at(
    supernet: Supernet, width: Tensor, depth: Tensor, batch: Batch, negatives: Tensor | None
) -> Tensor:
    """The supernet's loss at p and q."""
    return supernet.loss(batch, width, depth, negatives)


def probabilities(width: Tensor, depth: Tensor) -> Figures:
    """p (K,) and q (L,) by the names that reports give them."""
    figures = {f"candidate_{k}_probability": value for k, value in enumerate(width.tolist())}
    return figures | {f"exit_{layer}_probability": value for layer, value in enumerate(depth.tolist(), 1)}
