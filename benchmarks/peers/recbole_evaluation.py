"""RecBole's evaluation of its SASRec, for `benchmarks/evaluation.py`; runs in RecBole's environment.

    PYTHON recbole_evaluation.py FOLDER NAME

FOLDER/NAME/NAME.inter is the log. A request is {"max_length": N, "layers": n, "mode": "full", "uni100" or
"pop100"}; timed is `Trainer.evaluate` of all validation questions, with RecBole's own batches and metrics.
The weights are those that the network is built with: how long it takes does not depend on them.
"""

import os
import sys
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender.sasrec import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed
from settings import common_settings
from worker import Contestant, work


class Evaluation:
    """A network and the validation questions under one of RecBole's modes."""

    def __init__(self, folder: str, name: str, request: dict[str, Any]) -> None:
        settings = common_settings(folder)
        changed = {
            "n_layers": request["layers"],
            "MAX_ITEM_LIST_LENGTH": request["max_length"],
            "eval_args": {**settings["eval_args"], "mode": request["mode"]},
            "metrics": ["Recall", "MRR", "NDCG"],
            "topk": [10],
            "valid_metric": "NDCG@10",
            "checkpoint_dir": os.path.join(folder, "saved"),
        }
        config = Config(model="SASRec", dataset=name, config_dict=settings | changed)
        init_seed(0, True)
        train_data, self.valid_data, _ = data_preparation(config, create_dataset(config))
        self.trainer = Trainer(config, SASRec(config, train_data.dataset))
        # What `Trainer.fit` does before it evaluates.
        self.trainer.eval_collector.data_collect(train_data)

    def evaluate(self) -> dict[str, float]:
        """All validation questions; returns the metrics."""
        return dict(self.trainer.evaluate(self.valid_data, load_best_model=False))

    def questions(self) -> int:
        """How many there are."""
        return len(self.valid_data.dataset)


def main() -> None:
    """Serve the driver."""
    folder, name = sys.argv[1:]
    sys.argv[1:] = []  # RecBole's Config reads the command line too
    os.chdir(folder)  # its Trainer writes logs of TensorBoard below the working directory
    evaluation = cache(lambda settings: Evaluation(folder, name, dict(settings)))

    def prepare(request: dict[str, Any]) -> Evaluation:
        return evaluation(tuple(sorted(request.items())))

    contestants = {
        "evaluate": Contestant(Evaluation.evaluate, prepare),
        "questions": Contestant(Evaluation.questions, prepare),
    }
    versions = {name: version(name) for name in ("recbole", "torch", "numpy")}
    work(contestants, versions, torch.set_num_threads)


if __name__ == "__main__":
    main()
