"""What a network may cost at most: in closed form before it is trained, and measured afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass

from easrec.models.architecture import Architecture
from easrec.nas.resources import network_flops, network_parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Bounds on the networks of a sweep; None bounds nothing."""

    max_flops: int | None = None
    """FLOPs of one forward pass over `max_length` positions."""
    max_params: int | None = None
    """Parameters."""
    max_latency_ms: float | None = None
    """Median latency of one request in ms."""
    max_length: int
    """N, the positions that FLOPs and parameters are counted for."""
    num_items: int
    """Items of the catalogue."""

    def _bounds(self) -> dict[str, float]:
        bounds = {"flops": self.max_flops, "params": self.max_params, "latency_ms_p50": self.max_latency_ms}
        return {name: bound for name, bound in bounds.items() if bound is not None}

    def violations(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """How far each bounded figure is beyond its bound, as a share of it; at most 0 keeps it.

        A figure that is not known yet is not judged.
        """
        return {name: metrics[name] / bound - 1 for name, bound in self._bounds().items() if name in metrics}

    @property
    def num_bounds(self) -> int:
        """How many figures are bounded."""
        return len(self._bounds())

    def known_costs(self, architecture: Architecture) -> dict[str, float]:
        """What a network costs in closed form."""
        return {
            "flops": network_flops(architecture, self.max_length),
            "params": network_parameters(architecture, self.num_items, self.max_length),
        }

    def refusal(self, architecture: Architecture) -> str | None:
        """Why a network need not be trained, or None.

        >>> budget = Budget(max_flops=1_000_000, max_length=50, num_items=100)
        >>> budget.refusal(Architecture(64, 256, 1, 4))
        'needs 7,987,200 FLOPs, over --max-flops 1,000,000'
        """
        costs = self.known_costs(architecture)
        names = {"flops": "FLOPs", "params": "parameters"}
        over = [name for name, beyond in self.violations(costs).items() if beyond > 0]
        parts = [
            f"{costs[name]:,.0f} {names[name]}, over --max-{name} {self._bounds()[name]:,.0f}"
            for name in over
        ]
        return f"needs {' and '.join(parts)}" if parts else None
