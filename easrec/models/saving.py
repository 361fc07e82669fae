"""A network on disk: `network.json` says what it is, `weights.safetensors` holds its weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from easrec.errors import InputError
from easrec.files import read_json, write_atomically, write_json
from easrec.micro_batches import is_out_of_memory
from easrec.models.architecture import Architecture
from easrec.models.features import FDSA, FEATURE_NETWORKS, SASRecF
from easrec.models.transformer import SequentialRecommender

DESCRIPTION = "network.json"
WEIGHTS = "weights.safetensors"


def save_weights(module: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a module's state as safetensors, atomically."""
    state = {name: value.detach().contiguous().cpu() for name, value in module.state_dict().items()}
    write_atomically(path, lambda temporary: save_file(state, temporary, metadata=metadata))


def save_network(model: SequentialRecommender, directory: Path | str) -> None:
    """Write a network to `directory`; the description comes last, so that it vouches for the weights."""
    directory = Path(directory)
    (directory / DESCRIPTION).unlink(missing_ok=True)
    save_weights(model, directory / WEIGHTS)
    description: dict[str, Any] = {
        "architecture": model.architecture.to_dict(),
        "num_items": model.num_items,
        "max_length": model.max_length,
        "dropout": model.dropout,
    }
    if model.attention_dropout:
        description["attention_dropout"] = model.attention_dropout
    if isinstance(model, SASRecF | FDSA):
        description["features"] = {
            "kind": model.kind,
            "num_values": model.num_values,
            "max_values": model.item_values.shape[1],
        }
    write_json(directory / DESCRIPTION, description)


def load_network(directory: Path | str, device: str = "cpu") -> SequentialRecommender:
    """Read a network that `save_network` wrote, in evaluation mode.

    Raises:
        InputError: the directory holds no network, or one whose weights do not fit its description.
    """
    directory = Path(directory)
    for name in (DESCRIPTION, WEIGHTS):
        if not (directory / name).is_file():
            raise InputError(f"{directory} holds no saved network: {name} is missing")
    description = read_json(directory / DESCRIPTION)
    model = _described(description, directory)
    try:
        model.load_state_dict(load_file(directory / WEIGHTS))
    except (RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"the weights in {directory} do not fit its {DESCRIPTION}: {error}") from error
    return model.to(device).eval()


def _described(description: dict[str, Any], directory: Path) -> SequentialRecommender:
    """A network as a description says, its weights still to be read."""
    architecture = Architecture.from_dict(description["architecture"])
    sizes = description["num_items"], description["max_length"], description["dropout"]
    attention_dropout = description.get("attention_dropout", 0.0)
    features = description.get("features")
    if features is None:
        return SequentialRecommender(architecture, *sizes, attention_dropout=attention_dropout)
    if features["kind"] not in FEATURE_NETWORKS:
        raise InputError(
            f"{directory} holds a network of kind {features['kind']!r}; known are "
            f"{', '.join(FEATURE_NETWORKS)}"
        )
    return FEATURE_NETWORKS[features["kind"]](
        architecture,
        *sizes,
        item_values=torch.zeros(description["num_items"] + 1, features["max_values"], dtype=torch.int64),
        num_values=features["num_values"],
        attention_dropout=attention_dropout,
    )
