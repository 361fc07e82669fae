"""Trials whose networks are known beforehand: one is good, one costs more and can learn little."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from easrec.data.sequences import SplitData
from easrec.data.synthetic import synthetic_interactions
from easrec.models.architecture import Architecture
from easrec.nas.resources import network_flops
from sweeps.command_line import parse
from sweeps.config import SweepConfig
from sweeps.plan import build_trials, preset_of
from sweeps.store import Store, code_version
from sweeps.trial import TrialConfig

MAX_LENGTH = 10
EPOCHS = 8
GOOD = Architecture(16, 16, 1, 4)
BAD = Architecture(4, 256, 3, 4)
"""Four dimensions for forty items, and several times the FLOPs of the good one."""
SMALL = Architecture(8, 8, 1, 4)
"""Costs least, so that nothing beats it."""

OPTIONS = [
    "--preset", "smoke", "--device", "cpu", "--hidden-size", "16", "--inner-size", "32", "--max-length",
    str(MAX_LENGTH), "--retrain-epochs", str(EPOCHS), "--patience", str(EPOCHS), "--batch-size", "32",
    "--retrain-learning-rate", "0.01", "--transfer-from", "fresh",
]  # fmt: skip
"""Of sweeps and explorations; no warm supernet is needed."""


def write_log(path: Path) -> None:
    """A log of 150 users whose next items can be learned."""
    log = synthetic_interactions(150, 40, 12, seed=2)
    frame = pd.DataFrame({"user_id": log.users, "item_id": log.items, "timestamp": range(len(log.items))})
    frame.to_csv(path, index=False)


def trials_of(tradeoffs: Sequence[float], data: SplitData) -> list[TrialConfig]:
    """Trials of these lambdas, in their order."""
    words = [*OPTIONS, "--tradeoffs", *map(str, tradeoffs)]
    config = parse(SweepConfig, "test", words)
    trials = build_trials(config, preset_of(config), data, device="cpu", code_version=code_version())
    return sorted(trials, key=lambda trial: tradeoffs.index(trial.tradeoff))


def derive(trial: TrialConfig, architecture: Architecture, store: Store, **more: Any) -> None:
    """Leave a warm-up and a search in a store, as if this architecture had been found, and `more`."""
    store.get_or_compute(
        "warm", trial.warm_key, lambda _: {"epochs": [], "warmup_s": 1.0, "micro_batch_size": None}
    )
    found = {
        "architecture": architecture.to_dict(),
        "candidate": 0,
        "epochs": [],
        "search_s": 1.0,
        "latencies_ms": [],
        "micro_batch_size": None,
        **more,
    }
    store.get_or_compute("search", trial.search_key, lambda _: found)


assert network_flops(SMALL, MAX_LENGTH) < network_flops(GOOD, MAX_LENGTH) < network_flops(BAD, MAX_LENGTH)
