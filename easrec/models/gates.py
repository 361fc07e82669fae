"""Data-aware gates: what a position's embedding says of how much each output of a dense layer counts."""

from torch import Tensor, nn

from easrec.models.architecture import GateLayers
from easrec.models.products import Linear

GAMMA = 2.0
"""The largest value of a gate; twice the sigmoid of zero's 1/2, so that a new gate is close to 1."""


class DataAwareGate(nn.Module):
    """G(E) = gamma * sigmoid(relu(E W + b) W' + b') with gamma = 2 (paper Eq. 6-7).

    One gate is bound to one dense layer and multiplies its outputs, position by position. With
    `gate_layers=1` it is gamma * sigmoid(E W + b).

    Args:
        hidden_size: D, size of the embedding that the gate reads.
        output_size: F, width of the dense layer that it is bound to.
        gate_layers: 1 or 2 dense layers in the gate.
    """

    def __init__(self, hidden_size: int, output_size: int, gate_layers: GateLayers) -> None:
        super().__init__()
        if gate_layers not in (1, 2):
            raise ValueError(f"a gate has 1 or 2 layers, got gate_layers={gate_layers}")
        self.inner = Linear(hidden_size, hidden_size) if gate_layers == 2 else None
        self.output = Linear(hidden_size, output_size)
        if self.inner is not None:
            nn.init.kaiming_uniform_(self.inner.weight, nonlinearity="relu")
            nn.init.zeros_(self.inner.bias)
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, N, D) -> factors (B, N, F) in (0, gamma)."""
        if self.inner is not None:
            embeddings = self.inner(embeddings, "relu")
        opened: Tensor = self.output(embeddings, "sigmoid")
        return GAMMA * opened
