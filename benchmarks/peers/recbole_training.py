"""RecBole's SASRec, taking training steps for `benchmarks/training.py`; runs in RecBole's environment.

    PYTHON recbole_training.py FOLDER NAME

FOLDER/NAME/NAME.inter is the log. A request is {"max_length": N, "layers": n, "batch": sequences}; timed is
what RecBole's `Trainer` does for one batch: take it from the loader, `calculate_loss`, backward, a step of
Adam. Attention dropout is 0, as it is in the network that it is compared with; that makes RecBole faster.
"""

import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender.sasrec import SASRec
from recbole.utils import init_seed
from settings import common_settings
from worker import Contestant, work


class Training:
    """A network, its optimiser, and the batches of RecBole's own loader, epoch after epoch."""

    def __init__(self, folder: str, name: str, max_length: int, layers: int, batch: int) -> None:
        changed = {
            "n_layers": layers,
            "MAX_ITEM_LIST_LENGTH": max_length,
            "train_batch_size": batch,
            "hidden_dropout_prob": 0.2,
            "attn_dropout_prob": 0.0,
        }
        config = Config(model="SASRec", dataset=name, config_dict=common_settings(folder) | changed)
        init_seed(0, True)
        dataset = create_dataset(config)
        self.loader, *_ = data_preparation(config, dataset)
        self.model = SASRec(config, dataset).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.batches = self._endless()

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self.loader

    def step(self) -> float:
        """One batch; returns the loss."""
        interaction = next(self.batches)
        self.optimizer.zero_grad()
        loss = self.model.calculate_loss(interaction)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def size(self) -> list[int]:
        """Samples and batches of an epoch."""
        return [len(self.loader.dataset), len(self.loader)]


def main() -> None:
    """Serve the driver."""
    folder, name = sys.argv[1:]
    sys.argv[1:] = []  # RecBole's Config reads the command line too
    training = cache(lambda settings: Training(folder, name, **dict(settings)))

    def prepare(request: dict[str, int]) -> Training:
        return training(tuple(sorted(request.items())))

    contestants = {
        "batch": Contestant(Training.step, prepare, lambda loss, _: loss),
        "size": Contestant(Training.size, prepare),
    }
    versions = {name: version(name) for name in ("recbole", "torch", "numpy")}
    work(contestants, versions, torch.set_num_threads)


if __name__ == "__main__":
    main()
