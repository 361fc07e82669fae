"""The search (paper Algorithm 1): a warm-up of the supernet, then first-order bilevel optimisation.

Weights W learn from training batches; every few steps the controllers alpha and beta learn from a batch of
validation targets, under a loss that adds the dynamic resource term. The loop that both take turns in is
`easrec.nas.alternating.alternate`.
"""

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from easrec.data.batches import Batch
from easrec.data.sequences import SplitData
from easrec.models.architecture import CandidateSpace
from easrec.nas.alternating import (
    OPTIONAL,
    Choosing,
    Figures,
    Progress,
    SearchResult,
    alternate,
    probabilities,
)
from easrec.nas.resources import resource_term
from easrec.nas.search_config import SearchConfig
from easrec.nas.supernet import Supernet
from easrec.nas.warmup import WarmUp, warm_up
from easrec.training import OnEpoch

__all__ = ["EasRec", "SearchConfig", "SearchResult", "WarmUp", "controller_loss", "search", "warm_up"]


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


class EasRec:
    """See `easrec.nas.alternating.Method`; all of its settings are those of `SearchConfig`."""

    title: ClassVar[str] = "EASRec"
    used: ClassVar[tuple[str, ...]] = ("tradeoff", *OPTIONAL)

    def settings(self, config: SearchConfig) -> SearchConfig:
        """`config` as it is."""
        return config

    def to_dict(self) -> dict[str, Any]:
        """See `easrec.nas.alternating.Method`."""
        return {"name": "easrec"}

    def start(self, supernet: Supernet, config: SearchConfig, costs: Tensor) -> "EasRecChoosing":
        """See `easrec.nas.alternating.Method`."""
        return EasRecChoosing(supernet, config, costs)


class EasRecChoosing(Choosing):
    """Gumbel-softmax samples of both controllers, and the dynamic resource term in their loss."""

    name = "search"
    weights_first = True

    def __init__(self, supernet: Supernet, config: SearchConfig, costs: Tensor) -> None:
        self._supernet = supernet
        self._config = config
        self._costs = costs
        self._hard_depth = 0
        self._temperature = math.nan

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """Adam with DARTS' betas."""
        return torch.optim.Adam(self._supernet.controllers.parameters(), lr=learning_rate, betas=(0.5, 0.999))

    def begin_epoch(self) -> None:
        """Read the hard depth n_t of the resource term anew."""
        self._hard_depth = self._supernet.hard_choice()[1]

    def sample(self, progress: Progress) -> tuple[Tensor, Tensor]:
        """One Gumbel-softmax sample of both, without negligible weights."""
        self._anneal(progress)
        with torch.no_grad():
            width, depth = (
                F.threshold(weights, min(self._config.negligible_weight, 0.5 / len(weights)), 0.0)
                for weights in self._supernet.controllers.sample(self._temperature)
            )
        return width, depth

    def begin_step(self, progress: Progress) -> None:
        """Set the temperature; with `depth_refresh="interval"` read the hard depth anew."""
        self._anneal(progress)
        if self._config.depth_refresh == "interval":
            self._hard_depth = self._supernet.hard_choice()[1]

    def _anneal(self, progress: Progress) -> None:
        schedule = self._config.temperature
        self._temperature = schedule.at(progress.step, planned_steps=progress.planned_steps)

    def gradients(self, batch: Batch) -> tuple[Tensor, Figures, tuple[Tensor, Tensor]]:
        """Those of `controller_loss`; gradients of W, half as much work again, are not computed."""
        loss, parts = controller_loss(
            self._supernet,
            batch,
            self._config,
            costs=self._costs,
            hard_depth=self._hard_depth,
            temperature=self._temperature,
        )
        controllers = self._supernet.controllers
        of_alpha, of_beta = torch.autograd.grad(
            loss, (controllers.alpha, controllers.beta), allow_unused=True, materialize_grads=True
        )
        return loss, parts, (of_alpha, of_beta)

    def cause(self, parts: Figures) -> str | None:
        """The weight that makes a loss overflow whose parts are finite."""
        weighed = [("tradeoff", self._config.tradeoff, parts["resource"])]
        if "validation_loss" in parts:
            weighed.append(("accuracy_weight", self._config.accuracy_weight, parts["validation_loss"]))
        for name, weight, value in weighed:
            if math.isfinite(value) and abs(weight * value) > torch.finfo(torch.float32).max:
                return f"{name}={weight:g}, which is too high"
        return None

    def choice(self) -> tuple[int, int]:
        """The argmax of alpha and of beta, within `max_flops`."""
        return self._supernet.hard_choice(max_flops=self._config.max_flops)

    def figures(self) -> Figures:
        """The temperature, and softmax of alpha and beta without noise."""
        expected = self._supernet.controllers.probabilities()
        return {"temperature": self._temperature, **probabilities(*expected)}


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
    """Search for an architecture by EASRec; see `easrec.nas.alternating.alternate`."""
    return alternate(
        EasRec(),
        data,
        space,
        config,
        warm=warm,
        device=device,
        checkpoint_dir=checkpoint_dir,
        on_epoch=on_epoch,
    )
