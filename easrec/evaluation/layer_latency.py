"""The latency of one layer of each candidate on the device at hand, for searches that trade accuracy for it.

Shapes: N positions, D hidden size.
"""

import statistics
import time

import torch

from easrec.models.architecture import CandidateSpace
from easrec.models.packing import Packing
from easrec.models.transformer import TransformerLayer

WARM_UPS = 10
"""Passes that are not timed."""


def layer_latencies_ms(
    space: CandidateSpace, max_length: int, *, device: torch.device | str = "cpu", repeats: int = 50
) -> tuple[float, ...]:
    """Median time of one layer of each candidate over one sequence of `max_length` positions, in ms.

    Candidates are timed in turn, so that what else the machine does meets all alike. CPU threads are those
    that torch has now.

    Args:
        space: the candidates.
        max_length: N.
        device: where.
        repeats: passes that are timed.

    Returns:
        (K,).
    """
    with torch.random.fork_rng(devices=[]):  # weights do not matter, and the caller's draws must not move
        layers = [
            TransformerLayer(space.architecture(candidate, 1), dropout=0.0).to(device).eval()
            for candidate in range(len(space))
        ]
    inputs = [
        torch.zeros(max_length, space.sizes(candidate)[0], device=device) for candidate in range(len(space))
    ]
    packing = Packing(torch.ones(1, max_length, dtype=torch.bool, device=device))
    times_s: list[list[float]] = [[] for _ in layers]
    with torch.inference_mode():
        for _ in range(WARM_UPS + repeats):
            for layer, x, times in zip(layers, inputs, times_s, strict=True):
                _synchronise(device)
                start_s = time.perf_counter()
                layer(x, x, packing)
                _synchronise(device)
                times.append(time.perf_counter() - start_s)
    return tuple(statistics.median(times[WARM_UPS:]) * 1000 for times in times_s)


def _synchronise(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
