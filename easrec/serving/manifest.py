"""What a bundle says of itself: its format, its network, and the size and checksum of each of its files."""

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import easrec
from easrec.errors import InputError
from easrec.files import read_json, write_json
from easrec.training import fingerprint

MANIFEST = "manifest.json"
FORMAT = "easrec-bundle"
FORMAT_VERSION = 1

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a bundle as it was written."""

    sha256: str
    """Checksum of its content, hexadecimal."""
    bytes: int
    """Its size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What `manifest.json` holds."""

    easrec_version: str
    """The easrec that wrote the bundle."""
    num_items: int
    """V, the items that the network knows."""
    max_length: int
    """The most positions of a history that it reads."""
    dropout: float
    """Share of values that it was trained without."""
    architecture_id: str
    """The readable name of its architecture."""
    files: dict[str, FileRecord]
    """Every file of the bundle but the manifest, by name."""


def is_file_name(name: str) -> bool:
    """Whether a name is that of a file in a folder itself: no path, nothing that leads out of it."""
    return name not in ("", ".", "..") and name.isprintable() and not set(name) & set("/\\:")


def record_of(path: Path) -> FileRecord:
    """Read a file's size and checksum."""
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return FileRecord(digest, path.stat().st_size)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into a folder, atomically, with a checksum of its own content."""
    content = asdict(manifest)
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": fingerprint(content)}
    write_json(directory / MANIFEST, header | content)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must hold an object.

    Raises:
        InputError: it cannot be read, is no JSON or something else than an object.
    """
    try:
        value = read_json(path)
    except InputError as error:
        raise InputError(f"{error}: export the bundle again") from error
    except (OSError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as JSON ({reason}): export the bundle again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, got {_short(value)}: export the bundle again")
    return value


def read_manifest(directory: Path) -> Manifest:
    """Read what a folder says of itself; its files are not looked at.

    Raises:
        InputError: there is no such folder, it is no bundle or one of a newer format, or its manifest is
            damaged.
    """
    path = directory / MANIFEST
    if not directory.is_dir():
        raise InputError(f"there is no bundle {directory}: name a folder that an export wrote")
    if not path.is_file():
        raise InputError(
            f"{directory} is no bundle, it has no {MANIFEST}: name a folder that an export wrote"
        )
    _check_inside(path, directory)
    values = read_object(path)
    if values.get("format") != FORMAT:
        raise InputError(
            f"{directory} is no bundle, its {MANIFEST} has format {_short(values.get('format'))} and not "
            f"{FORMAT!r}: name a folder that an export wrote"
        )
    written_by = values.get("easrec_version")
    format_version = _whole_number(values, "format_version", path)
    if format_version > FORMAT_VERSION:
        newer = f"easrec {written_by}" if isinstance(written_by, str) else "a newer easrec"
        raise InputError(
            f"{path} has format version {format_version} and easrec {easrec.__version__} reads up to "
            f"{FORMAT_VERSION}: install {newer}, which wrote it"
        )
    dropout = _field(values, "dropout", (int, float), "a number", path)
    if not 0 <= dropout < 1:
        raise _wrong("dropout", "in [0, 1)", dropout, path)
    manifest = Manifest(
        easrec_version=_field(values, "easrec_version", str, "a text", path),
        num_items=_whole_number(values, "num_items", path),
        max_length=_whole_number(values, "max_length", path),
        dropout=dropout,
        architecture_id=_field(values, "architecture_id", str, "a text", path),
        files={
            name: _record(name, record, path)
            for name, record in _field(values, "files", dict, "an object", path).items()
        },
    )
    if _field(values, "sha256", str, "a text", path) != fingerprint(asdict(manifest)):
        raise InputError(
            f"{path} is damaged or was changed, its sha256 is not that of its content: copy the bundle "
            "again, or export it again"
        )
    return manifest


def check_files(directory: Path, manifest: Manifest) -> None:
    """Compare every file that a manifest lists with what it says of it; files that it does not list are free.

    Raises:
        InputError: a file is missing, lies elsewhere, or has another size or checksum.
    """
    for name, record in manifest.files.items():
        path = directory / name
        _check_inside(path, directory)
        if not path.is_file():
            raise InputError(f"{path} is missing: copy the bundle again, or export it again")
        try:
            size = path.stat().st_size
            if size == record.bytes:
                found = record_of(path)
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}): allow it, or copy it again"
            ) from error
        if size != record.bytes:
            raise InputError(
                f"{path} is damaged, it has {size} bytes and not {record.bytes}: copy the bundle again, or "
                "export it again"
            )
        if found != record:
            raise InputError(
                f"{path} is damaged or was changed, its sha256 is not that of {MANIFEST}: copy the bundle "
                "again, or export it again"
            )


def _check_inside(path: Path, directory: Path) -> None:
    # Not Path.resolve, which raises for links in a circle.
    target = os.path.realpath(path)
    if not Path(target).is_relative_to(os.path.realpath(directory)):
        raise InputError(f"{path} leads out of the bundle to {target}: put a copy of that file in its place")


def _record(name: str, record: object, path: Path) -> FileRecord:
    if not is_file_name(name):
        raise InputError(
            f"{path} lists {_short(name)}, which is no name of a file in the folder itself: export the "
            "bundle again"
        )
    if not isinstance(record, dict):
        raise _wrong(f"files[{name!r}]", "an object", record, path)
    digest = _field(record, "sha256", str, "a text", path)
    size = _field(record, "bytes", int, "a whole number", path)
    return FileRecord(digest, size)


def _whole_number(values: dict[str, Any], name: str, path: Path) -> int:
    value: int = _field(values, name, int, "a whole number", path)
    if value < 1:
        raise _wrong(name, "at least 1", value, path)
    return value


def _field(
    values: dict[str, Any], name: str, kind: type[_T] | tuple[type[Any], ...], described: str, path: Path
) -> Any:
    if name not in values:
        raise InputError(f"{path} has no {name!r}: export the bundle again")
    value = values[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _wrong(name, described, value, path)
    return value


def _wrong(name: str, rule: str, value: object, path: Path) -> InputError:
    return InputError(f"{name!r} in {path} must be {rule}, got {_short(value)}: export the bundle again")


def _short(value: object) -> str:
    """A value for a message; a damaged file may hold a very long one."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
