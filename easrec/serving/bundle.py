"""A network in one folder, ready to be copied elsewhere and served.

| file | content |
|---|---|
| `manifest.json` | the format, the network's sizes, and the size and checksum of each other file |
| `architecture.json` | what the network is |
| `weights.safetensors` | its weights |
| `items.parquet` | what its item ids stand for, and how often each occurs in training |
| `model.onnx` | its scores as an ONNX graph, weights included |

and whatever its maker adds, a model card for example. No file of it is ever unpickled.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import easrec
from easrec.data.items import Items
from easrec.errors import InputError
from easrec.files import write_json
from easrec.models.architecture import Architecture
from easrec.models.features import check_plain
from easrec.models.saving import WEIGHTS, save_weights
from easrec.models.transformer import SequentialRecommender
from easrec.nas.resources import network_parameters
from easrec.serving.manifest import (
    MANIFEST,
    Manifest,
    check_files,
    is_file_name,
    read_manifest,
    read_object,
    record_of,
    write_manifest,
)
from easrec.serving.onnx_export import write_onnx

ARCHITECTURE = "architecture.json"
ITEMS = "items.parquet"
ONNX = "model.onnx"
REQUIRED = (ARCHITECTURE, WEIGHTS, ITEMS, ONNX)
"""The files that every bundle has, beside its manifest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """What `load_bundle` has read and checked."""

    model: SequentialRecommender
    """The network, in evaluation mode."""
    items: Items
    """What its item ids stand for."""
    manifest: Manifest
    """What the bundle says of itself."""
    directory: Path
    """Where it lies."""


def save_bundle(
    directory: Path | str,
    model: SequentialRecommender,
    items: Items,
    *,
    files: Mapping[str, str | bytes | Path] = MappingProxyType({}),
    overwrite: bool = False,
) -> Path:
    """Write a bundle, whole or not at all.

    Everything is written to a folder beside `directory` and flushed to disk, then moved into place. A bundle
    that is there before stays until then; between its moving away and the new one's coming there is a moment
    with neither.

    Args:
        directory: where to; it does not exist yet, is empty, or with `overwrite` a bundle.
        model: the network.
        items: those of the data that it was trained on.
        files: further files by name: a text, bytes, or the path of a file to copy.
        overwrite: whether a bundle in `directory` is replaced.

    Returns:
        The bundle's folder, absolute.

    Raises:
        InputError: something else than a bundle lies in `directory`, or a bundle without `overwrite`; network
            and items do not belong together; or the network is too large for an ONNX file.
        ValueError: a name in `files` is a path, or that of a file which every bundle has.
    """
    check_plain(model, "a bundle")
    directory = Path(directory).resolve()
    _check_place(directory, overwrite)
    if model.num_items != items.num_items:
        raise InputError(
            f"the network knows {model.num_items} items and there are ids of {items.num_items}: give the "
            "items of the data that it was trained on"
        )
    for name in files:
        if not is_file_name(name) or name in (MANIFEST, *REQUIRED):
            raise ValueError(f"a further file of a bundle needs a plain name of its own, got {name!r}")
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        _fill(temporary, model, items, files)
        _move(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def load_bundle(directory: Path | str, device: str = "cpu") -> Bundle:
    """Read a bundle that `save_bundle` wrote, once all of its files are found to be what was written.

    Files that the manifest does not list are not looked at. Checksums find damage; they are no signature, so
    they do not prove who wrote a bundle.

    Args:
        directory: the bundle's folder.
        device: where the network goes.

    Raises:
        InputError: the folder is missing, is no bundle, needs a newer easrec, is damaged, or its parts do not
            belong together.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    for name in REQUIRED:
        if name not in manifest.files:
            raise InputError(f"{directory / MANIFEST} does not list {name}: export the bundle again")
    check_files(directory, manifest)
    architecture = _read_architecture(directory / ARCHITECTURE, manifest)
    model = _read_model(directory / WEIGHTS, architecture, manifest)
    items = Items.load(directory / ITEMS)
    if items.num_items != manifest.num_items:
        raise InputError(
            f"{directory / ITEMS} has {items.num_items} items and {MANIFEST} says {manifest.num_items}: "
            "export the bundle again"
        )
    return Bundle(model=model.to(device).eval(), items=items, manifest=manifest, directory=directory)


def _check_place(directory: Path, overwrite: bool) -> None:
    """Refuse to replace what is no bundle, or more than a bundle."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    try:
        manifest = read_manifest(directory)
    except InputError as error:
        raise InputError(
            f"{directory} exists and is no bundle that could be replaced: remove it, or name another folder"
        ) from error
    if not overwrite:
        raise InputError(f"{directory} holds a bundle already: overwrite it, or name another folder")
    foreign = sorted({path.name for path in directory.iterdir()} - {MANIFEST, *manifest.files})
    if foreign:
        raise InputError(
            f"{directory / foreign[0]} is not part of the bundle there and would be lost: move it away, or "
            "name another folder"
        )


def _fill(
    directory: Path,
    model: SequentialRecommender,
    items: Items,
    files: Mapping[str, str | bytes | Path],
) -> None:
    write_json(directory / ARCHITECTURE, model.architecture.to_dict())
    save_weights(model, directory / WEIGHTS)
    items.save(directory / ITEMS)
    write_onnx(model, directory / ONNX)
    for name, content in files.items():
        if isinstance(content, Path):
            shutil.copyfile(content, directory / name)
        else:
            (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)
        _flush(directory / name)
    names = sorted(path.name for path in directory.iterdir())
    manifest = Manifest(
        easrec_version=easrec.__version__,
        num_items=model.num_items,
        max_length=model.max_length,
        dropout=model.dropout,
        architecture_id=model.architecture.architecture_id,
        files={name: record_of(directory / name) for name in names},
    )
    write_manifest(directory, manifest)
    umask = os.umask(0)
    os.umask(umask)
    directory.chmod(0o777 & ~umask)  # mkdtemp makes folders for their owner alone
    _flush(directory)


def _move(new: Path, directory: Path) -> None:
    """Put a folder in the place of another one, which comes back if that fails."""
    if not directory.exists():
        os.rename(new, directory)
    else:
        old = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            os.replace(directory, old)
            os.rename(new, directory)
        except BaseException:
            if directory.exists():
                old.rmdir()  # nothing has been moved
            else:
                os.replace(old, directory)
            raise
        shutil.rmtree(old)
    _flush(directory.parent)


def _flush(path: Path) -> None:
    """Have the system write a file or a folder's list of names to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_architecture(path: Path, manifest: Manifest) -> Architecture:
    values = read_object(path)
    try:
        architecture = Architecture.from_dict(values)
    except (InputError, TypeError) as error:
        raise InputError(f"{path} describes no architecture ({error}): export the bundle again") from error
    if architecture.architecture_id != manifest.architecture_id:
        raise InputError(
            f"{path} describes {architecture.architecture_id} and {MANIFEST} names "
            f"{manifest.architecture_id}: export the bundle again"
        )
    return architecture


def _read_model(path: Path, architecture: Architecture, manifest: Manifest) -> SequentialRecommender:
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is no file of weights ({error}): export the bundle again") from error
    # The number comes first: it costs nothing to compute, and a network of wrong sizes may not fit in memory.
    stored = sum(value.numel() for value in state.values())
    expected = network_parameters(architecture, manifest.num_items, manifest.max_length)
    if stored != expected:
        raise InputError(
            f"{path} has {stored} parameters and {architecture.architecture_id} with {manifest.num_items} "
            f"items and {manifest.max_length} positions has {expected}: export the bundle again"
        )
    # Its first weights are overwritten: drawing them must not change the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        model = SequentialRecommender(architecture, manifest.num_items, manifest.max_length, manifest.dropout)
    difference = _first_difference(model.state_dict(), state)
    if difference is not None:
        raise InputError(
            f"{path} does not hold the weights of {architecture.architecture_id} ({difference}): export the "
            "bundle again"
        )
    model.load_state_dict(state)
    return model


def _first_difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is unknown"
        wanted, got = expected[name], found[name]
        if wanted.shape != got.shape:
            return f"{name} has shape {tuple(got.shape)} and not {tuple(wanted.shape)}"
        if wanted.dtype != got.dtype:
            return f"{name} has dtype {got.dtype} and not {wanted.dtype}"
    return None
