"""RecTools' SASRec, training for `benchmarks/targets_per_second.py`; runs in RecTools' environment.

    PYTHON rectools_training.py LOG

LOG is a csv file of user_id, item_id and datetime with the training interactions alone. A request is
{"max_length": N, "layers": n, "heads": h, "batch": sequences}; "epoch" trains one more epoch with RecTools'
own `fit_partial` and Lightning trainer and returns its seconds, from the start of its first batch to the end
of its last. The preparation of the data and the start of the trainer are before that and do not count.
"""

import logging
import sys
import time
import warnings
from functools import cache
from importlib.metadata import version

import pandas as pd
import pytorch_lightning
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from worker import Contestant, work


class Clock(Callback):
    """Seconds of the last epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop it."""
        self.seconds = time.perf_counter() - self.start


def quiet_trainer() -> Trainer:
    """RecTools' own trainer (see `TransformerModelBase`), on the CPU, with a clock."""
    return Trainer(
        max_epochs=1,
        min_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
        accelerator="cpu",
        devices=1,
        callbacks=[Clock()],
    )


class Training:
    """A model that is trained epoch after epoch."""

    def __init__(self, dataset: Dataset, request: dict[str, int]) -> None:
        pytorch_lightning.seed_everything(0, verbose=False)
        self.dataset = dataset
        self.model = SASRecModel(
            n_blocks=request["layers"],
            n_heads=request["heads"],
            n_factors=64,
            session_max_len=request["max_length"],
            batch_size=request["batch"],
            dropout_rate=0.2,
            loss="softmax",
            get_trainer_func=quiet_trainer,
        )

    def epoch(self) -> float:
        """One more epoch; returns its seconds."""
        self.model.fit_partial(self.dataset, min_epochs=1, max_epochs=1)
        (clock,) = (one for one in self.model.fit_trainer.callbacks if isinstance(one, Clock))
        return clock.seconds

    def size(self) -> dict[str, int]:
        """Targets of an epoch as its loader gives them, batches, and weights of one transformer block."""
        loader = self.model.data_preparator.get_dataloader_train()
        targets = sum(int((batch["y"] != 0).sum()) for batch in loader)
        blocks = self.model.torch_model.transformer_layers
        parameters = sum(parameter.numel() for parameter in blocks.parameters()) // self.model.n_blocks
        return {"targets": targets, "batches": len(loader), "block_parameters": parameters}


def main() -> None:
    """Serve the driver."""
    # Of what they call themselves, and of a loader without workers of its own.
    warnings.filterwarnings("ignore", module="rectools|pydantic|pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    log = pd.read_csv(sys.argv[1], parse_dates=[Columns.Datetime])
    log[Columns.Weight] = 1
    dataset = Dataset.construct(log)
    training = cache(lambda settings: Training(dataset, dict(settings)))

    def prepare(request: dict[str, int]) -> Training:
        return training(tuple(sorted(request.items())))

    contestants = {
        "epoch": Contestant(Training.epoch, prepare, own_clock=True),
        "size": Contestant(Training.size, prepare),
    }
    versions = {name: version(name) for name in ("rectools", "pytorch-lightning", "torch", "numpy")}
    work(contestants, versions, torch.set_num_threads)


if __name__ == "__main__":
    main()
