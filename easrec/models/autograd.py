"""What backward passes written by hand have in common."""

import torch


def refuse_second_derivative() -> None:
    """Raise where a graph of this backward pass is asked for.

    A backward pass written by hand takes what it saved for constants, so a second derivative through it would
    be wrong without a word; torch's own `once_differentiable` notices only some of the cases.

    Raises:
        RuntimeError: gradients are being computed with `create_graph=True`.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "linear attention and the loss have first derivatives only: use create_graph=False"
        )
