"""RecNAS (Peng et al. 2022) over EASRec's supernet: an annealed relaxation that loses its weak candidates.

The softmax over candidates and over exits grows sharper as its temperature falls, and those whose
probability has become small leave the search, one of each kind in an epoch at most. What has left is not
computed any more and never comes back. Under a bound of FLOPs all that it excludes has left from the begin.

Of the paper are annealing, progressive pruning and the bound that is kept throughout; its own search space
and the channel pruning within it are replaced by the space that all methods here share.

Legend: K candidates, L exits.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from easrec.data.batches import Batch
from easrec.errors import InputError
from easrec.nas.alternating import Choosing, Figures, Progress, probabilities
from easrec.nas.controllers import TemperatureSchedule
from easrec.nas.resources import network_flops, resource_term
from easrec.nas.search_config import SearchConfig
from easrec.nas.supernet import Supernet


@dataclass(frozen=True, kw_only=True, slots=True)
class RecNas:
    """Settings of RecNAS beside those that all searches have."""

    title: ClassVar[str] = "RecNAS"
    used: ClassVar[tuple[str, ...]] = ("tradeoff", "resource", "temperature", "negligible_weight")

    threshold: float = 0.3
    """A candidate or exit leaves when its probability is below this share of an equal one, 1 / those left."""
    prune_from: float = 0.2
    """Share of the planned architecture steps before which nothing leaves by its probability."""

    def __post_init__(self) -> None:
        for name in ("threshold", "prune_from"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    def to_dict(self) -> dict[str, Any]:
        """See `easrec.nas.alternating.Method`."""
        return {"name": "recnas", **asdict(self)}

    def settings(self, config: SearchConfig) -> SearchConfig:
        """Without a warm-up; `max_flops` is the method's bound."""
        return replace(config, warmup_epochs=0)

    def start(self, supernet: Supernet, config: SearchConfig, costs: Tensor) -> "RecNasChoosing":
        """See `easrec.nas.alternating.Method`."""
        return RecNasChoosing(supernet, config, costs, self)


class RecNasChoosing(Choosing):
    """See `easrec.nas.alternating.Choosing`."""

    name = "recnas"

    def __init__(self, supernet: Supernet, config: SearchConfig, costs: Tensor, settings: RecNas) -> None:
        self._supernet = supernet
        self._config = config
        self._costs = costs
        self._settings = settings
        self._temperature = config.temperature.start
        self.candidates = list(range(len(supernet.space)))
        """Those that have not left, from 0."""
        self.depths = list(range(1, supernet.space.num_layers + 1))
        """Numbers of layers that have not left."""
        self._drop_what_the_bound_excludes()

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """Adam, as EASRec's."""
        return torch.optim.Adam(self._supernet.controllers.parameters(), lr=learning_rate, betas=(0.5, 0.999))

    def relaxed(self) -> tuple[Tensor, Tensor]:
        """softmax(alpha / tau) and softmax(beta / tau) over what has not left, (K,) and (L,); zeros else."""
        controllers = self._supernet.controllers
        exits = [depth - 1 for depth in self.depths]
        return (
            _annealed(controllers.alpha, self.candidates, self._temperature),
            _annealed(controllers.beta, exits, self._temperature),
        )

    def sample(self, progress: Progress) -> tuple[Tensor, Tensor]:
        """The relaxation, without negligible weights."""
        self._anneal(progress)
        width, depth = (
            F.threshold(weights.detach(), min(self._config.negligible_weight, 0.5 / len(weights)), 0.0)
            for weights in self.relaxed()
        )
        return width, depth

    def begin_step(self, progress: Progress) -> None:
        """Let the temperature fall."""
        self._anneal(progress)

    def gradients(self, batch: Batch) -> tuple[Tensor, Figures, tuple[Tensor, Tensor]]:
        """Those of cross-entropy + tradeoff * R, R the expected cost; zeros for what has left."""
        controllers = self._supernet.controllers
        width, depth = self.relaxed()
        cross_entropy = self._supernet.loss(batch, width, depth)
        resource = resource_term(self._costs, width, depth, 1, "expected")
        loss = cross_entropy + self._config.tradeoff * resource
        of_alpha, of_beta = torch.autograd.grad(loss, (controllers.alpha, controllers.beta))
        figures = {"validation_loss": cross_entropy.item(), "resource": resource.item()}
        return loss, figures, (of_alpha, of_beta)

    def end_epoch(self, progress: Progress) -> None:
        """Let the weakest candidate and the weakest exit go, if they are weak enough.

        Each that is left has a partner within the bound, so whatever goes, something can be derived.
        """
        self._anneal(progress)
        if progress.share < self._settings.prune_from:
            return
        width = self.relaxed()[0].tolist()
        weak = self._weak({k: width[k] for k in self.candidates})
        if weak is not None:
            self.candidates.remove(weak)
            self._drop_what_the_bound_excludes()
        # Taken now, since exits may have gone with the candidate, and those left then share all.
        depth = self.relaxed()[1].tolist()
        weak = self._weak({n: depth[n - 1] for n in self.depths})
        if weak is not None:
            self.depths.remove(weak)
            self._drop_what_the_bound_excludes()

    def _weak(self, shares: dict[int, float]) -> int | None:
        """The least probable one, if it is below the threshold."""
        weakest = min(shares, key=shares.__getitem__)
        return weakest if shares[weakest] < self._settings.threshold / len(shares) else None

    def _anneal(self, progress: Progress) -> None:
        schedule: TemperatureSchedule = self._config.temperature
        self._temperature = schedule.at(progress.step, planned_steps=progress.planned_steps)

    def _drop_what_the_bound_excludes(self) -> None:
        bound, length = self._config.max_flops, self._config.max_length
        space = self._supernet.space
        pairs = [
            (k, n)
            for k in self.candidates
            for n in self.depths
            if bound is None or network_flops(space.architecture(k, n), length) <= bound
        ]
        self.candidates = sorted({k for k, _ in pairs})
        self.depths = sorted({n for _, n in pairs})

    def choice(self) -> tuple[int, int]:
        """The likeliest pair of what has not left."""
        return self._supernet.hard_choice(
            max_flops=self._config.max_flops, candidates=self.candidates, depths=self.depths
        )

    def figures(self) -> Figures:
        """The temperature, how many have not left, and the relaxation."""
        return {
            "temperature": self._temperature,
            "candidates_left": float(len(self.candidates)),
            "exits_left": float(len(self.depths)),
            **probabilities(*self.relaxed()),
        }

    def state_dict(self) -> dict[str, Any]:
        """What has not left, beside alpha and beta."""
        return {
            "candidates": self.candidates,
            "depths": self.depths,
            "temperature": self._temperature,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.candidates, self.depths = list(state["candidates"]), list(state["depths"])
        self._temperature = state["temperature"]


def _annealed(logits: Tensor, left: list[int], temperature: float) -> Tensor:
    gone = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
    gone[left] = False
    return F.softmax(logits.masked_fill(gone, -torch.inf) / temperature, dim=0)
