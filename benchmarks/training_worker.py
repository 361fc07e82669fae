"""Our side of `benchmarks/training.py` and `benchmarks/targets_per_second.py`: epochs of `easrec.retrain`.

python training_worker.py DATA

A request is {"architecture": JSON, "max_length": N}; done is a retraining of one epoch from fresh weights,
with every interaction as a target once. "epoch" is the whole of it: the network, the batches, the validation
at the end. "batches" is the training alone, from the making of the first batch to the end of the last.
"""

import sys
from typing import Any

import torch
from peers.worker import Contestant, work
from report import own_versions

from easrec.data.batches import training_batches
from easrec.data.interactions import load_interactions
from easrec.data.sequences import SplitData, leave_one_out
from easrec.models.architecture import Architecture
from easrec.retrain import RetrainConfig, retrain
from easrec.training import EpochReport, training_form


def epoch(request: dict[str, Any], data: SplitData) -> EpochReport:
    """Retrain for one epoch."""
    config = RetrainConfig(max_length=request["max_length"], max_epochs=1)
    (report,) = retrain(Architecture.from_json(request["architecture"]), data, config).epochs
    return report


def batches(request: dict[str, Any], data: SplitData) -> float:
    """Retrain for one epoch; returns the seconds of its batches alone."""
    config = RetrainConfig(max_length=request["max_length"])
    form = training_form(Architecture.from_json(request["architecture"]))
    made = training_batches(data, config.max_length, config.batch_size, form=form, seed=config.seed, epoch=1)
    sequences = sum(len(batch.item_ids) for batch in made)
    return sequences / epoch(request, data).sequences_per_s


def main() -> None:
    """Load the data and serve the driver."""
    data = leave_one_out(load_interactions(sys.argv[1]))
    contestants = {
        "epoch": Contestant(lambda request: epoch(request, data).metrics["loss"]),
        "batches": Contestant(lambda request: batches(request, data), own_clock=True),
    }
    work(contestants, own_versions("easrec", "torch"), torch.set_num_threads)


if __name__ == "__main__":
    main()
