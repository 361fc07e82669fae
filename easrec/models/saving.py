"""A network on disk: `network.json` says what it is, `weights.safetensors` holds its weights."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from easrec.errors import InputError
from easrec.files import read_json, write_atomically, write_json
from easrec.models.architecture import Architecture
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
    write_json(
        directory / DESCRIPTION,
        {
            "architecture": model.architecture.to_dict(),
            "num_items": model.num_items,
            "max_length": model.max_length,
            "dropout": model.dropout,
        },
    )


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
    model = SequentialRecommender(
        Architecture.from_dict(description["architecture"]),
        description["num_items"],
        description["max_length"],
        description["dropout"],
    )
    try:
        model.load_state_dict(load_file(directory / WEIGHTS))
    except (RuntimeError, SafetensorError) as error:
        raise InputError(f"the weights in {directory} do not fit its {DESCRIPTION}: {error}") from error
    return model.to(device).eval()
