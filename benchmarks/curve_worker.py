"""Our side of `benchmarks/time_to_accuracy.py`: whole trainings by `easrec.retrain`.

python curve_worker.py DATA

A request is {"architecture": JSON, "config": fields of RetrainConfig}; the answer lists its epochs, each with
the NDCG@10 of all protocols and the wall time since `retrain` was called. That time holds all that `retrain`
does: the network, batches, its own validation and a checkpoint. From the checkpoint the network is read back
and ranked under all protocols while the clock stands still.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peers.worker import Contestant, work
from report import own_versions

from easrec.data.interactions import load_interactions
from easrec.data.sequences import SplitData, leave_one_out
from easrec.evaluation.protocols import PROTOCOLS, evaluate
from easrec.models.architecture import Architecture
from easrec.models.transformer import SequentialRecommender
from easrec.retrain import RetrainConfig, retrain
from easrec.training import CHECKPOINT, EpochReport


def curve(request: dict[str, Any], data: SplitData) -> list[dict[str, Any]]:
    """Train once; returns the epochs as {"seconds", "ndcg": {protocol: value}}."""
    architecture = Architecture.from_json(request["architecture"])
    config = RetrainConfig(**request["config"])
    # Before the clock: what a process does on first use of the libraries is neither side's training.
    warm = SequentialRecommender(architecture, data.num_items, config.max_length)
    evaluate(warm.eval().scores, data, "valid", max_length=config.max_length, protocols=("unseen",))
    epochs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="easrec-curve-") as folder:
        stopped = 0.0
        start = time.perf_counter()

        def on_epoch(report: EpochReport) -> None:
            nonlocal stopped
            paused = time.perf_counter()
            state = torch.load(Path(folder) / CHECKPOINT, weights_only=True)["model"]
            network = SequentialRecommender(architecture, data.num_items, config.max_length)
            network.load_state_dict(state)
            metrics = evaluate(network.eval().scores, data, "valid", max_length=config.max_length)
            own = report.metrics["valid/unseen/ndcg_at_10"]
            if abs(metrics["unseen/ndcg_at_10"] - own) > 1e-9:
                raise RuntimeError(f"retrain found NDCG@10 {own} and its checkpoint {metrics}")
            ndcg = {protocol: metrics[f"{protocol}/ndcg_at_10"] for protocol in PROTOCOLS}
            epochs.append({"seconds": paused - start - stopped, "ndcg": ndcg})
            stopped += time.perf_counter() - paused

        retrain(architecture, data, config, checkpoint_dir=folder, on_epoch=on_epoch)
    return epochs


def main() -> None:
    """Load the data and serve the driver."""
    data = leave_one_out(load_interactions(sys.argv[1]))
    contestants = {"curve": Contestant(lambda request: curve(request, data))}
    work(contestants, own_versions("easrec", "torch", "numpy"), torch.set_num_threads)


if __name__ == "__main__":
    main()
