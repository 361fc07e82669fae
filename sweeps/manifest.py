"""Sets of files as objects: a manifest says which object holds which file, so a set is whole or not there."""

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sweeps.objects import ObjectStore

_OBJECT = re.compile(r"[0-9a-f]{32}")


class IncompleteError(Exception):
    """A manifest cannot be understood, or the files that it names are not there as it says."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The object that holds a file."""

    object: str
    """Name of the object; a new one each time, so that objects are never replaced."""
    size: int
    """Bytes."""
    sha256: str
    """Digest of the content, hexadecimal."""


Manifest = dict[str, StoredFile]
"""Name of a file, with / between directories -> the object that holds it."""


def manifest_to_dict(manifest: Mapping[str, StoredFile]) -> dict[str, Any]:
    """The manifest as JSON values."""
    return {name: asdict(file) for name, file in manifest.items()}


def manifest_from_dict(values: Mapping[str, Any]) -> Manifest:
    """Inverse of `manifest_to_dict`.

    Raises:
        IncompleteError: it is none, or a name would lead out of the directory that the files belong to.
    """
    try:
        manifest = {name: StoredFile(**file) for name, file in values.items()}
        for name, file in manifest.items():
            path = PurePosixPath(name)
            if path.is_absolute() or not path.parts or ".." in path.parts:
                raise IncompleteError(f"a manifest names the file {name!r}")
            if not _OBJECT.fullmatch(file.object):
                raise IncompleteError(f"a manifest names the object {file.object!r}")
    except (AttributeError, TypeError) as error:
        raise IncompleteError(f"a manifest cannot be understood: {error}") from error
    return manifest


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def upload_files(
    objects: ObjectStore, folder: str, directory: Path, *, known: Mapping[str, StoredFile]
) -> Manifest:
    """Upload the files of a directory and all below it, without those whose names begin with a dot.

    Args:
        objects: where to.
        folder: what the objects' names begin with.
        directory: where the files lie.
        known: files of this folder that were uploaded before; those with the same content are not again.

    Returns:
        What is to be written down for `download_file`, once this has returned.
    """
    manifest = {}
    for path in sorted(directory.rglob("*")):
        if not path.is_file() or path.name.startswith("."):
            continue
        name = path.relative_to(directory).as_posix()
        size, sha256 = path.stat().st_size, file_digest(path)
        before = known.get(name)
        if before is not None and (before.size, before.sha256) == (size, sha256):
            manifest[name] = before
            continue
        stored = StoredFile(uuid.uuid4().hex, size, sha256)
        objects.upload(f"{folder}/{stored.object}", path)
        manifest[name] = stored
    return manifest


def download_file(objects: ObjectStore, folder: str, stored: StoredFile, path: Path) -> None:
    """Download one file of a manifest, atomically; a file with that content that is there already is kept.

    Raises:
        IncompleteError: there is no such object, or it holds something else.
    """
    if path.is_file() and path.stat().st_size == stored.size and file_digest(path) == stored.sha256:
        return
    name = f"{folder}/{stored.object}"
    try:
        sha256 = objects.download(name, path)
    except FileNotFoundError:
        raise IncompleteError(f"{objects.url}/{name} is missing") from None
    if sha256 != stored.sha256:
        path.unlink()
        raise IncompleteError(f"{objects.url}/{name} does not hold what was written there")
