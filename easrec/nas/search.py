"""The search (paper Algorithm 1): a warm-up of the supernet, then first-order bilevel optimisation.

Weights W learn from training batches; every few steps the controllers alpha and beta learn from a batch of
validation targets, under a loss that adds the dynamic resource term.
"""

import copy
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
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
from easrec.nas.resources import candidate_costs, resource_term
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

__all__ = ["SearchConfig", "SearchResult", "WarmUp", "controller_loss", "search", "warm_up"]


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


def controller_loss(
    supernet: Supernet,
    batch: Batch,
    config: SearchConfig,
    *,
    costs: Tensor,
    hard_depth: int,
    temperature: float,
) -> tuple[Tensor, dict[str, float]]:
    """The controllers' loss, accuracy_weight * CE + tradeoff * R (paper Eq. 16), and its two parts.

    Draws one Gumbel sample from torch's global generator.

    Args:
        supernet: gives alpha and beta, and the cross-entropy at a sample of them.
        batch: validation targets.
        config: settings.
        costs: F_k, (K,).
        hard_depth: n_t, the number of layers of the hard selection.
        temperature: tau.
    """
    width, depth = supernet.controllers.sample(temperature)
    expected_width, expected_depth = supernet.controllers.probabilities()
    cost_width = width if config.cost_probabilities == "sampled" else expected_width
    resource = resource_term(costs, cost_width, expected_depth, hard_depth, config.depth_cost)
    loss = config.tradeoff * resource
    parts = {"resource": resource.item()}
    if config.accuracy_weight > 0:
        cross_entropy = supernet.loss(batch, width, depth)
        loss = loss + config.accuracy_weight * cross_entropy
        parts["validation_loss"] = cross_entropy.item()
    return loss, parts


def search(
    data: SplitData,
    space: CandidateSpace,
    config: SearchConfig,
    *,
    warm: WarmUp | None = None,
    device: str = "cpu",
    checkpoint_dir: Path | str | None = None,
    on_epoch: OnEpoch | None = None,
) -> SearchResult:
    """Search for an architecture: warm-up, then bilevel optimisation, then the hard choice at the end.

    Args:
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
        InputError: the data have nothing to train on, the checkpoint belongs to another run, or `max_flops`
            leaves no architecture.
        NonFiniteLossError: a loss, a weight or a score became NaN or infinite.
        MemoryExhaustedError: not even one sequence at a time fits into memory.
    """
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
    owner = run_fingerprint(data, space, "search", config.to_dict(), state_digest(warm.supernet))
    with seeded(config.seed, "init", 0, device):
        supernet = Supernet(space, data.num_items, config.max_length, config.dropout).to(device)
    supernet.load_state_dict(warm.supernet.state_dict())
    if config.compile:
        compile_layers(supernet.layers, device)
    weights = weight_steps(supernet, config, device)
    # A copy, since Adam updates the tensors of a loaded state in place and `warm` serves other searches.
    weights.load_state_dict(copy.deepcopy(warm.optimizer_state))
    controller_optimizer = torch.optim.Adam(
        supernet.controllers.parameters(), lr=config.controller_learning_rate, betas=(0.5, 0.999)
    )
    epochs: list[EpochReport] = []
    iteration = 0
    latencies_ms = config.latencies_ms
    if state := load_checkpoint(checkpoint_dir, owner):
        supernet.load_state_dict(state["supernet"])
        weights.load_state_dict(state["weights"])
        controller_optimizer.load_state_dict(state["controller_optimizer"])
        epochs = [EpochReport(**epoch) for epoch in state["epochs"]]
        iteration = state["iteration"]
        latencies_ms = state["latencies_ms"]
    if config.resource == "latency" and not latencies_ms:
        latencies_ms = layer_latencies_ms(space, config.max_length, device=device)
    costs = candidate_costs(space, config.resource, config.max_length, latencies_ms=latencies_ms).to(device)
    controllers = list(supernet.controllers.parameters())
    planned_steps = planned_controller_steps(data, space, config)
    for epoch in range(len(epochs) + 1, config.search_epochs + 1):
        if has_ended(epochs, config):
            break
        clock, begun = EpochClock(), weights.num_sequences
        hard_depth = supernet.hard_choice()[1]
        validation = validation_stream(data, config, epoch)
        losses: list[float] = []
        controller_parts: list[dict[str, float]] = []
        with seeded(config.seed, "search", epoch, device):
            batches = epoch_batches(data, space, config, config.warmup_epochs + epoch)
            for step, batch in enumerate(batches, 1):
                temperature = config.temperature.at(
                    iteration // config.controller_interval, planned_steps=planned_steps
                )
                if not config.freeze_weights:
                    # Weight step: W learns at one sample of the controllers, which stay as they are.
                    supernet.train()
                    with torch.no_grad():
                        width, depth = (
                            F.threshold(weights, min(config.negligible_weight, 0.5 / len(weights)), 0.0)
                            for weights in supernet.controllers.sample(temperature)
                        )
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
                if iteration % config.controller_interval:
                    continue
                # Controller step: alpha and beta learn from validation targets. Without dropout, so that
                # candidates are compared as they will be evaluated.
                supernet.eval()
                if config.depth_refresh == "interval":
                    hard_depth = supernet.hard_choice()[1]
                asked = next(validation)
                loss, parts, gradients = weights.micro_batches.fitting(
                    asked,
                    partial(
                        _controller_gradients,
                        supernet,
                        asked,
                        config,
                        weights.micro_batches,
                        device,
                        costs=costs,
                        hard_depth=hard_depth,
                        temperature=temperature,
                    ),
                    f"the controllers' step {step} of search epoch {epoch}",
                )
                check_finite(
                    loss,
                    stage="search",
                    epoch=epoch,
                    step=step,
                    learning_rate=config.controller_learning_rate,
                    cause=_cause(config, parts),
                )
                for parameter, gradient in zip(controllers, gradients, strict=True):
                    parameter.grad = gradient
                controller_optimizer.step()
                controller_parts.append(parts)
        clock.trained(weights.num_sequences - begun)
        for trained, learning_rate in (
            (supernet.weight_parameters(), config.learning_rate),
            (controllers, config.controller_learning_rate),
        ):
            check_weights(trained, stage="search", epoch=epoch, steps=step, learning_rate=learning_rate)
        metrics = _epoch_metrics(supernet, config, losses, step, controller_parts, temperature)
        if config.stop_on == "ndcg":
            choice = supernet.derive(max_flops=config.max_flops)
            with scores_explained("search", epoch, step, config.learning_rate):
                metrics[HARD_CHOICE_NDCG] = hard_choice_ndcg(supernet, choice, data, config, device)
        epochs.append(clock.report("search", epoch, config.search_epochs, metrics))
        save_checkpoint(
            checkpoint_dir,
            {
                "supernet": supernet.state_dict(),
                "weights": weights.state_dict(),
                "controller_optimizer": controller_optimizer.state_dict(),
                "epochs": [report.to_dict() for report in epochs],
                "iteration": iteration,
                "latencies_ms": tuple(latencies_ms),
            },
            owner,
        )
        trim_heap()
        if on_epoch is not None:
            on_epoch(epochs[-1])
    candidate, num_layers = supernet.hard_choice(max_flops=config.max_flops)
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


def _controller_gradients(
    supernet: Supernet,
    batch: Batch,
    config: SearchConfig,
    micro_batches: MicroBatches,
    device: str,
    *,
    costs: Tensor,
    hard_depth: int,
    temperature: float,
) -> tuple[Tensor, dict[str, float], list[Tensor]]:
    """The controllers' loss on a batch of validation targets, its parts and its gradients, in micro-batches.

    See `controller_loss` for the arguments. All micro-batches are computed at the same Gumbel sample.
    """
    controllers = list(supernet.controllers.parameters())
    begun = RandomState(device)
    total, figures = torch.zeros(()), dict[str, float]()
    gradients: list[Tensor] = []
    for part, share in micro_batches.parts(batch):
        begun.restore()
        with autocast(device, config.precision):
            loss, parts = controller_loss(
                supernet,
                move(part, device),
                config,
                costs=costs,
                hard_depth=hard_depth,
                temperature=temperature,
            )
        if share != 1:
            loss = loss * share
        # Gradients of the layers' weights, half as much work again, are not computed.
        found = torch.autograd.grad(loss, controllers, allow_unused=True, materialize_grads=True)
        gradients = [a + b for a, b in zip(gradients, found, strict=True)] if gradients else list(found)
        total = total + loss.detach().cpu()
        figures = {name: figures.get(name, 0.0) + share * value for name, value in parts.items()}
    return total, figures, gradients


def _cause(config: SearchConfig, parts: dict[str, float]) -> str | None:
    """Which weight makes a controllers' loss overflow whose parts are finite; None if it is neither."""
    weighed = [("tradeoff", config.tradeoff, parts["resource"])]
    if "validation_loss" in parts:
        weighed.append(("accuracy_weight", config.accuracy_weight, parts["validation_loss"]))
    for name, weight, value in weighed:
        if math.isfinite(value) and abs(weight * value) > torch.finfo(torch.float32).max:
            return f"{name}={weight:g}, which is too high"
    return None


def _loss_at(
    supernet: Supernet, width: Tensor, depth: Tensor, batch: Batch, negatives: Tensor | None
) -> Tensor:
    """The supernet's loss at one sample of the controllers."""
    return supernet.loss(batch, width, depth, negatives)


def _epoch_metrics(
    supernet: Supernet,
    config: SearchConfig,
    losses: list[float],
    num_steps: int,
    controller_parts: list[dict[str, float]],
    temperature: float,
) -> dict[str, float]:
    candidate, num_layers = supernet.hard_choice(max_flops=config.max_flops)
    metrics = {
        **({"loss": sum(losses) / len(losses)} if losses else {}),
        "steps": float(num_steps),
        "temperature": temperature,
        "candidate": float(candidate),
        "num_layers": float(num_layers),
    }
    for name in ("resource", "validation_loss"):
        values = [parts[name] for parts in controller_parts if name in parts]
        if values:
            metrics[name] = sum(values) / len(values)
    width, depth = (weights.tolist() for weights in supernet.controllers.probabilities())
    metrics |= {f"candidate_{k}_probability": value for k, value in enumerate(width)}
    metrics |= {f"exit_{layer}_probability": value for layer, value in enumerate(depth, 1)}
    return metrics
