"""DARTS (Liu et al. 2019) over EASRec's supernet, in its first-order form.

Candidates and exits are relaxed by softmax, without noise, temperature or a resource term. Architecture
steps on validation data and weight steps on training data take turns; the argmax is derived and then trained
from fresh weights.

Legend: K candidates, L exits.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from easrec.data.batches import Batch
from easrec.errors import InputError
from easrec.nas.alternating import Choosing, Figures, Progress, probabilities
from easrec.nas.search_config import SearchConfig
from easrec.nas.supernet import Supernet


@dataclass(frozen=True, kw_only=True, slots=True)
class Darts:
    """Settings of DARTS beside those that all searches have."""

    title: ClassVar[str] = "DARTS"
    used: ClassVar[tuple[str, ...]] = ()

    weight_decay: float = 1e-3
    """L2 penalty of alpha and beta, as Adam takes it."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"weight_decay must be a finite number of at least 0, got {self.weight_decay}")

    def to_dict(self) -> dict[str, Any]:
        """See `easrec.nas.alternating.Method`."""
        return {"name": "darts", **asdict(self)}

    def settings(self, config: SearchConfig) -> SearchConfig:
        """The paper's: no warm-up, an architecture step before each weight step, no resource term."""
        return replace(config, warmup_epochs=0, controller_interval=1, tradeoff=0.0)

    def start(self, supernet: Supernet, config: SearchConfig, costs: Tensor) -> "DartsChoosing":
        """See `easrec.nas.alternating.Method`."""
        return DartsChoosing(supernet, config, self)


class DartsChoosing(Choosing):
    """See `easrec.nas.alternating.Choosing`."""

    name = "darts"

    def __init__(self, supernet: Supernet, config: SearchConfig, settings: Darts) -> None:
        self._supernet = supernet
        self._max_flops = config.max_flops
        self._settings = settings

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """Adam with the paper's betas and weight decay."""
        return torch.optim.Adam(
            self._supernet.controllers.parameters(),
            lr=learning_rate,
            betas=(0.5, 0.999),
            weight_decay=self._settings.weight_decay,
        )

    def sample(self, progress: Progress) -> tuple[Tensor, Tensor]:
        """softmax(alpha) and softmax(beta): every candidate and exit takes part."""
        width, depth = self._supernet.controllers.probabilities()
        return width.detach(), depth.detach()

    def gradients(self, batch: Batch) -> tuple[Tensor, Figures, tuple[Tensor, Tensor]]:
        """Those of the cross-entropy of the mixed network, its weights taken as they are (first order)."""
        controllers = self._supernet.controllers
        loss = self._supernet.loss(batch, *controllers.probabilities())
        of_alpha, of_beta = torch.autograd.grad(loss, (controllers.alpha, controllers.beta))
        return loss, {"validation_loss": loss.item()}, (of_alpha, of_beta)

    def choice(self) -> tuple[int, int]:
        """The argmax of alpha and of beta."""
        return self._supernet.hard_choice(max_flops=self._max_flops)

    def figures(self) -> Figures:
        """softmax(alpha) and softmax(beta)."""
        return probabilities(*self._supernet.controllers.probabilities())
