"""How much of a GPU's memory a trial may take that shares the GPU with others.

Ray counts shares of GPUs and hides the other devices from a process, but lets it fill the memory.
"""

import torch

RESERVE = 0.1
"""Part of a trial's share that PyTorch may not allocate: each process has a CUDA context beside it."""


def memory_share(gpus: float) -> float | None:
    """The part of a GPU's memory that a process with so many GPUs may allocate; None for whole GPUs.

    >>> memory_share(0.5), memory_share(1.0)
    (0.45, None)
    """
    return gpus * (1 - RESERVE) if 0 < gpus < 1 else None


def limit_memory(device: str, share: float | None) -> None:
    """Let this process allocate at most a share of its GPU's memory, or all of it with None.

    Processes go from one task to the next, so each task says what holds for it. On a CPU nothing is done.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0 if share is None else share)
