"""The two controllers, width (alpha) and depth (beta), and the temperature they are relaxed with.

Shapes: K candidates, L exits.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from easrec.errors import InputError

ScheduleKind = Literal["linear", "exponential", "cosine", "constant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TemperatureSchedule:
    """The Gumbel-softmax temperature tau as a function of the controllers' steps.

    >>> schedule = TemperatureSchedule(kind="linear", floor=0.1, fraction=0.8)
    >>> [round(schedule.at(step, planned_steps=100), 3) for step in (0, 40, 80, 100)]
    [1.0, 0.55, 0.1, 0.1]
    """

    kind: ScheduleKind = "linear"
    """How the temperature falls: `linear`, `exponential`, `cosine`, or `constant` (it stays at `start`)."""
    start: float = 1.0
    """Temperature of the first step."""
    floor: float = 0.1
    """The temperature never falls below it (tau_min)."""
    fraction: float = 0.8
    """Share of the planned steps at which the floor is reached, in (0, 1]."""
    rate: float | None = None
    """Fall per step instead of a fraction of the plan: start - rate * step (`linear`) or
    start * exp(-rate * step) (`exponential`)."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScheduleKind):
            known = ", ".join(get_args(ScheduleKind))
            raise InputError(f"the temperature's kind must be one of {known}, got {self.kind!r}")
        if not 0 < self.floor <= self.start:
            raise InputError(
                f"temperatures must satisfy 0 < floor <= start, got {self.floor=}, {self.start=}"
            )
        if not 0 < self.fraction <= 1:
            raise InputError(f"the temperature's fraction must lie in (0, 1], got {self.fraction}")
        if self.rate is not None and (self.rate <= 0 or self.kind not in ("linear", "exponential")):
            raise InputError(
                "a temperature rate must be positive and belongs to kind 'linear' or 'exponential', "
                f"got {self.rate=}, {self.kind=}"
            )

    def at(self, step: int, *, planned_steps: int) -> float:
        """Temperature of a step (counted from 0) of a search of `planned_steps` controller steps."""
        if self.kind == "constant":
            return self.start
        if self.rate is not None:
            fallen = self.rate * step
            value = self.start - fallen if self.kind == "linear" else self.start * math.exp(-fallen)
            return max(self.floor, value)
        progress = min(1.0, step / max(1.0, self.fraction * planned_steps))
        if self.kind == "linear":
            return self.start + (self.floor - self.start) * progress
        if self.kind == "exponential":
            return self.start * math.exp(progress * math.log(self.floor / self.start))
        return self.floor + (self.start - self.floor) * (1 + math.cos(math.pi * progress)) / 2


def gumbel_noise(size: int, *, device: torch.device | str = "cpu") -> Tensor:
    """`size` draws from Gumbel(0, 1), from torch's global generator."""
    # The exponential draw is clamped because a float32 draw of 0 would make the noise infinite.
    smallest = torch.finfo(torch.float32).tiny
    return -torch.empty(size, device=device).exponential_().clamp_min(smallest).log()


def relaxed_choice(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """softmax((log_softmax(logits) + noise) / temperature): a Gumbel-softmax sample (paper Eq. 10-11)."""
    return F.softmax((F.log_softmax(logits, dim=0) + noise) / temperature, dim=0)


class Controllers(nn.Module):
    """alpha (K,), one weight per candidate for all layers, and beta (L,), one per exit; zeros at first."""

    def __init__(self, num_candidates: int, num_layers: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(num_candidates))
        self.beta = nn.Parameter(torch.zeros(num_layers))

    def sample(self, temperature: float) -> tuple[Tensor, Tensor]:
        """One draw of width weights p (K,) and depth weights q (L,), differentiable in alpha and beta."""
        width_noise = gumbel_noise(len(self.alpha), device=self.alpha.device)
        depth_noise = gumbel_noise(len(self.beta), device=self.beta.device)
        return (
            relaxed_choice(self.alpha, width_noise, temperature),
            relaxed_choice(self.beta, depth_noise, temperature),
        )

    def probabilities(self) -> tuple[Tensor, Tensor]:
        """softmax(alpha) (K,) and softmax(beta) (L,), without noise."""
        return F.softmax(self.alpha, dim=0), F.softmax(self.beta, dim=0)
