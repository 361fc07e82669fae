"""ProxylessNAS (Cai et al. 2019) over EASRec's supernet: binary gates, so that single paths are computed.

A path is a candidate and an exit. A weight step samples one of each, by softmax(alpha) and softmax(beta), and
computes no other. An architecture step samples two of each, opens the gate of one of the two, and learns from
the gradients of both gates which of them should be likelier; the others keep their probabilities.

Legend: K candidates, L exits, J the paths of a kind: K or L.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from easrec.data.batches import Batch
from easrec.nas.alternating import Choosing, Figures, Progress, probabilities
from easrec.nas.resources import resource_term
from easrec.nas.search_config import SearchConfig
from easrec.nas.supernet import Supernet


@dataclass(frozen=True, slots=True)
class SampledPaths:
    """The paths of one kind that an architecture step computes."""

    indices: Tensor
    """The one whose gate is open, then the other, int64 (2,); (1,) where there is one path alone."""
    num_paths: int
    """J."""

    @classmethod
    def draw(cls, logits: Tensor) -> "SampledPaths":
        """Two paths by softmax(logits), and of them the open one by their shares, from torch's generator."""
        chosen = torch.multinomial(F.softmax(logits.detach(), dim=0), min(2, len(logits)))
        opened = torch.multinomial(F.softmax(logits.detach()[chosen], dim=0), 1)
        order = torch.cat([opened, 1 - opened]) if len(chosen) == 2 else opened
        return cls(chosen[order], len(logits))

    @property
    def shut(self) -> int | None:
        """The sampled path whose gate is shut, if there is one."""
        return int(self.indices[1]) if len(self.indices) == 2 else None

    def gates(self, like: Tensor) -> Tensor:
        """g (J,): 1 for the open path, else 0; it asks for gradients."""
        gates = torch.zeros(self.num_paths, dtype=like.dtype, device=like.device)
        gates[self.indices[0]] = 1
        return gates.requires_grad_()

    def shares(self, logits: Tensor) -> Tensor:
        """Softmax of the sampled paths alone, as if there were no others, (2,)."""
        return F.softmax(logits[self.indices], dim=0)

    def probabilities(self, logits: Tensor) -> Tensor:
        """softmax(logits) (J,), where only the sampled paths can take from each other."""
        held = F.softmax(logits, dim=0).detach()
        together = held[self.indices].sum()
        return held.index_put((self.indices,), together * self.shares(logits))

    @torch.no_grad()
    def rescale(self, logits: Tensor, before: Tensor) -> None:
        """Shift what was updated, in place, so that all other paths keep their probabilities `before`."""
        moved = logits[self.indices]
        logits[self.indices] = moved + before[self.indices].logsumexp(0) - moved.logsumexp(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxylessNas:
    """Settings of ProxylessNAS: it has none but those that all searches have."""

    title: ClassVar[str] = "ProxylessNAS"
    used: ClassVar[tuple[str, ...]] = ("tradeoff", "resource")

    def to_dict(self) -> dict[str, Any]:
        """See `easrec.nas.alternating.Method`."""
        return {"name": "proxylessnas", **asdict(self)}

    def settings(self, config: SearchConfig) -> SearchConfig:
        """Without the common warm-up, which computes all paths at once."""
        return replace(config, warmup_epochs=0)

    def start(self, supernet: Supernet, config: SearchConfig, costs: Tensor) -> "ProxylessChoosing":
        """See `easrec.nas.alternating.Method`."""
        return ProxylessChoosing(supernet, config, costs)


class ProxylessChoosing(Choosing):
    """See `easrec.nas.alternating.Choosing`."""

    name = "proxylessnas"

    def __init__(self, supernet: Supernet, config: SearchConfig, costs: Tensor) -> None:
        self._supernet = supernet
        self._config = config
        self._costs = costs
        self._before: tuple[Tensor, Tensor] | None = None
        self._sampled: tuple[SampledPaths, SampledPaths] | None = None

    @property
    def _logits(self) -> tuple[Tensor, Tensor]:
        controllers = self._supernet.controllers
        return controllers.alpha, controllers.beta

    def optimizer(self, learning_rate: float) -> torch.optim.Optimizer:
        """Adam without momentum: a path that a step has not sampled does not move in it."""
        return torch.optim.Adam(self._supernet.controllers.parameters(), lr=learning_rate, betas=(0.0, 0.999))

    def sample(self, progress: Progress) -> tuple[Tensor, Tensor]:
        """One candidate and one exit, as binary gates."""
        width, depth = (
            F.one_hot(torch.multinomial(F.softmax(logits.detach(), dim=0), 1)[0], len(logits)).to(
                logits.dtype
            )
            for logits in self._logits
        )
        return width, depth

    def begin_step(self, progress: Progress) -> None:
        """Sample two candidates and two exits."""
        alpha, beta = self._logits
        self._before = alpha.detach().clone(), beta.detach().clone()
        self._sampled = SampledPaths.draw(alpha), SampledPaths.draw(beta)

    def gradients(self, batch: Batch) -> tuple[Tensor, Figures, tuple[Tensor, Tensor]]:
        """sum_j dL/dg_j q_j ((i = j) - q_i) for alpha_i, over sampled paths with shares q; plus the cost's.

        The cross-entropy is that of the open path. The expected cost, tradeoff * R, is that of all paths, in
        which the sampled ones alone can change.
        """
        assert self._sampled is not None  # begin_step comes first
        (alpha, beta), (candidates, exits) = self._logits, self._sampled
        gates = candidates.gates(alpha), exits.gates(beta)
        cross_entropy = self._supernet.loss(batch, *gates, shut=(candidates.shut, exits.shut))
        of_width, of_depth = torch.autograd.grad(cross_entropy, gates)
        resource = resource_term(
            self._costs, candidates.probabilities(alpha), exits.probabilities(beta), 1, "expected"
        )
        through_gates = (candidates.shares(alpha) * of_width[candidates.indices]).sum()
        through_gates = through_gates + (exits.shares(beta) * of_depth[exits.indices]).sum()
        of_alpha, of_beta = torch.autograd.grad(
            through_gates + self._config.tradeoff * resource, (alpha, beta)
        )
        loss = cross_entropy.detach() + self._config.tradeoff * resource.detach()
        figures = {"validation_loss": cross_entropy.item(), "resource": resource.item()}
        return loss, figures, (of_alpha, of_beta)

    def end_step(self) -> None:
        """Give the paths that were not sampled their probabilities back."""
        assert self._sampled is not None and self._before is not None  # begin_step comes first
        for logits, sampled, before in zip(self._logits, self._sampled, self._before, strict=True):
            sampled.rescale(logits, before)

    def choice(self) -> tuple[int, int]:
        """The likeliest candidate and exit."""
        return self._supernet.hard_choice(max_flops=self._config.max_flops)

    def figures(self) -> Figures:
        """softmax(alpha) and softmax(beta)."""
        return probabilities(*self._supernet.controllers.probabilities())
