"""A network of RecBole's, trained epoch after epoch for other benchmarks; in RecBole's environment.

    PYTHON recbole_curve.py FOLDER NAME STATE MODEL

FOLDER/NAME/NAME.inter is the log, and MODEL is SASRec, or SASRecF or FDSA, which read
FOLDER/NAME/NAME.item; STATE is a directory in which every epoch leaves a checkpoint, so that a stopped
training goes on. Training and evaluation are `Trainer.fit` and `Trainer.evaluate`. Each epoch also leaves
the scores of all items for all validation questions, STATE/scores-EPOCH.npy, float32 (users, items + 1) in
RecBole's own numbering, whose tokens the contestant "tokens" gives.
"""

import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed
from recbole.utils.case_study import full_sort_scores
from settings import common_settings, feature_settings
from worker import Contestant, work

CHECKPOINT = "recbole.pt"
CHANGED = {
    "MAX_ITEM_LIST_LENGTH": 50,
    "train_batch_size": 2048,
    "learning_rate": 1e-3,
    "hidden_dropout_prob": 0.2,
    "attn_dropout_prob": 0.2,
    "metrics": ["NDCG"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 8,
}
"""RecBole's SASRec at the best setting known here; the rest is as RecBole has it (Adam, cross-entropy)."""


class Curve:
    """A training that has run for `epochs`, each {"seconds", "loss", "full"}; `full` is RecBole's NDCG@10."""

    def __init__(self, folder: str, name: str, state: Path, model: str) -> None:
        settings = common_settings(folder) | CHANGED | {"checkpoint_dir": str(Path(folder) / "saved")}
        if model != "SASRec":
            settings = feature_settings(settings)
        config = Config(model=model, dataset=name, config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        self.dataset = create_dataset(config)
        self.train_data, self.valid_data, _ = data_preparation(config, self.dataset)
        self.model = get_model(model)(config, self.train_data.dataset)
        self.trainer = Trainer(config, self.model)
        self.state = state
        self.epochs: list[dict[str, float]] = []
        self.generator = self.train_data.generator
        if (state / CHECKPOINT).is_file():
            self._resume()

    def _resume(self) -> None:
        # Not `Trainer.resume_checkpoint`: it keeps no random state, and torch refuses its file since 2.6.
        saved = torch.load(self.state / CHECKPOINT, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.trainer.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["loader"])
        torch.set_rng_state(saved["random"])
        self.epochs = saved["epochs"]

    def train(self, _: Any) -> dict[str, float]:
        """One more epoch; returns its record."""
        epoch = len(self.epochs)
        self.trainer.start_epoch, self.trainer.epochs = epoch, epoch + 1
        start = time.perf_counter()
        self.trainer.fit(self.train_data, saved=False, verbose=False)
        seconds = time.perf_counter() - start
        result = self.trainer.evaluate(self.valid_data, load_best_model=False)
        users = np.arange(1, self.dataset.user_num)
        with torch.no_grad():
            scores = full_sort_scores(users, self.model, self.valid_data)
        self.epochs.append(
            {
                "seconds": seconds,
                "loss": float(self.trainer.train_loss_dict[epoch]) / len(self.train_data),
                "full": float(result["ndcg@10"]),
            }
        )
        # The scores first: a checkpoint vouches for them.
        _write(self.state / f"scores-{epoch + 1}.npy", lambda path: np.save(path, scores.numpy()))
        _write(self.state / CHECKPOINT, lambda path: torch.save(self._saved(), path))
        return self.epochs[-1]

    def _saved(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.trainer.optimizer.state_dict(),
            "loader": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "epochs": self.epochs,
        }

    def tokens(self, _: Any) -> dict[str, list[str]]:
        """The log's ids of the rows and columns of scores; the first column is padding."""
        users = np.arange(1, self.dataset.user_num)
        items = np.arange(self.dataset.item_num)
        return {
            "users": self.dataset.id2token(self.dataset.uid_field, users).tolist(),
            "items": self.dataset.id2token(self.dataset.iid_field, items).tolist(),
        }


def _write(path: Path, write: Any) -> None:
    """Write a file as a whole or not at all."""
    temporary = path.with_name(f"new-{path.name}")
    write(temporary)
    os.replace(temporary, path)


def main() -> None:
    """Build or resume the training and serve the driver."""
    folder, name, state, model = sys.argv[1:]
    sys.argv[1:] = []  # RecBole's Config reads the command line too
    os.chdir(folder)  # its Trainer writes logs of TensorBoard below the working directory
    curve = Curve(folder, name, Path(state), model)
    contestants = {
        "epoch": Contestant(curve.train),
        "epochs": Contestant(lambda _: curve.epochs),
        "tokens": Contestant(curve.tokens),
    }
    versions = {name: version(name) for name in ("recbole", "torch", "numpy")}
    work(contestants, versions, torch.set_num_threads)


if __name__ == "__main__":
    main()
