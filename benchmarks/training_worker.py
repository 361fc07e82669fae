"""Our side of `benchmarks/training.py`: epochs of `easrec.retrain`.

python training_worker.py DATA

A request is {"architecture": JSON, "max_length": N}; timed is a retraining of one epoch from fresh weights:
making the network, every interaction as a target once, and the validation at the end.
"""

import sys
from typing import Any

import torch
from peers.worker import Contestant, work
from report import own_versions

from easrec.data.interactions import load_interactions
from easrec.data.sequences import leave_one_out
from easrec.models.architecture import Architecture
from easrec.retrain import RetrainConfig, retrain


def main() -> None:
    """Load the data and serve the driver."""
    data = leave_one_out(load_interactions(sys.argv[1]))

    def epoch(request: dict[str, Any]) -> float:
        architecture = Architecture.from_json(request["architecture"])
        config = RetrainConfig(max_length=request["max_length"], max_epochs=1)
        (report,) = retrain(architecture, data, config).epochs
        return report.metrics["loss"]

    work({"epoch": Contestant(epoch)}, own_versions("easrec", "torch"), torch.set_num_threads)


if __name__ == "__main__":
    main()
