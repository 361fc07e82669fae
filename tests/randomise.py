"""Random parameters: the defaults of norms, biases and gates would hide mistakes."""

import torch
from torch import nn


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter anew, in place; the module in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module.eval()
