"""What RecBole's networks make of some histories, with the weights beside; runs in RecBole's environment.

    PYTHON recbole_networks.py FOLDER NAME RESULTS

FOLDER/NAME/NAME.inter is the log and NAME.item the features of its items. Writes RESULTS/MODEL.npz for
SASRec, SASRecF and FDSA: every weight, `histories` (B, N) with zeros on the right, `values` (V + 1, W) where
items are read with their features, and `outputs` (B, D). Ids are RecBole's own. The weights are random, and
far larger than those that a training begins with, so that every part of a network counts.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed
from settings import common_settings, feature_settings

MODELS = ("SASRec", "SASRecF", "FDSA")
LENGTH, HISTORIES = 50, 64
DEVIATION = 0.15
"""Of the random weights; RecBole's own is 0.02."""


def write(folder: str, name: str, model: str, results: Path) -> None:
    """Build a network, draw its weights, and write all that is needed to compute its outputs elsewhere."""
    settings = common_settings(folder) | {"MAX_ITEM_LIST_LENGTH": LENGTH}
    if model != "SASRec":
        settings = feature_settings(settings)
    config = Config(model=model, dataset=name, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    training, _, _ = data_preparation(config, dataset)
    network = get_model(model)(config, training.dataset).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += DEVIATION * torch.randn(parameter.shape, generator=generator)
        lengths = torch.randint(1, LENGTH + 1, (HISTORIES,), generator=generator)
        histories = torch.randint(1, dataset.item_num, (HISTORIES, LENGTH), generator=generator)
        histories *= torch.arange(LENGTH) < lengths[:, None]
        found = {"histories": histories, "outputs": network(histories, lengths)}
    if model != "SASRec":
        found["values"] = dataset.get_item_feature()["features"]
    weights = {f"weight.{key}": value for key, value in network.state_dict().items()}
    arrays = {key: value.numpy() for key, value in {**found, **weights}.items()}
    np.savez(results / f"{model}.npz", **arrays)


def main() -> None:
    """Write the files of all networks."""
    folder, name, results = sys.argv[1:]
    sys.argv[1:] = []  # RecBole's Config reads the command line too
    os.chdir(folder)  # where it writes logs
    for model in MODELS:
        write(folder, name, model, Path(results))


if __name__ == "__main__":
    main()
