"""RecBole's SASRec, taking training steps for `benchmarks/training.py`; runs in RecBole's environment.

    PYTHON recbole_training.py FOLDER NAME

FOLDER/NAME/NAME.inter is the log. A request is {"max_length": N, "layers": n, "batch": sequences,
"attention": "softmax" or "linear", "dropout": share, "attention_dropout": share}; timed is what RecBole's
`Trainer` does for one batch: take it from the loader, `calculate_loss`, backward, a step of Adam.
"""

import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from linrec import with_linear_attention
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender.sasrec import SASRec
from recbole.utils import init_seed
from settings import common_settings
from worker import Contestant, work


class Training:
    """A network, its optimiser, and the batches of RecBole's own loader, epoch after epoch."""

    def __init__(self, folder: str, name: str, request: dict[str, Any]) -> None:
        changed = {
            "n_layers": request["layers"],
            "MAX_ITEM_LIST_LENGTH": request["max_length"],
            "train_batch_size": request["batch"],
            "hidden_dropout_prob": request["dropout"],
            "attn_dropout_prob": request["attention_dropout"],
        }
        config = Config(model="SASRec", dataset=name, config_dict=common_settings(folder) | changed)
        init_seed(0, True)
        dataset = create_dataset(config)
        self.loader, *_ = data_preparation(config, dataset)
        self.model = SASRec(config, dataset).train()
        if request["attention"] == "linear":
            self.model = with_linear_attention(self.model)
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

    @torch.no_grad()
    def first_layer(self) -> dict[str, Any]:
        """The attention of the first layer: its weights, an input, (2, 7, D), and what it makes of it."""
        module = self.model.trm_encoder.layer[0].multi_head_attention
        inputs = torch.randn(2, 7, self.model.hidden_size, generator=torch.Generator().manual_seed(0))
        module.eval()
        outputs = module(inputs, torch.zeros(2, 1, 7, 7))
        module.train()
        weights = {name: value.tolist() for name, value in module.state_dict().items()}
        return {"weights": weights, "inputs": inputs.tolist(), "outputs": outputs.tolist()}


def main() -> None:
    """Serve the driver."""
    folder, name = sys.argv[1:]
    sys.argv[1:] = []  # RecBole's Config reads the command line too
    training = cache(lambda settings: Training(folder, name, dict(settings)))

    def prepare(request: dict[str, Any]) -> Training:
        return training(tuple(sorted(request.items())))

    contestants = {
        "batch": Contestant(Training.step, prepare),
        "size": Contestant(Training.size, prepare),
        "first layer": Contestant(Training.first_layer, prepare),
    }
    versions = {name: version(name) for name in ("recbole", "torch", "numpy")}
    work(contestants, versions, torch.set_num_threads)


if __name__ == "__main__":
    main()
