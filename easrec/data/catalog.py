"""Data sets known by name: where their raw files come from, their checksums and their terms."""

import hashlib
import http.client
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock
from platformdirs import user_cache_dir

from easrec.errors import InputError
from easrec.files import write_atomically

CACHE_VARIABLE = "EASREC_CACHE_DIR"


class SourceError(Exception):
    """A source did not give its file; the next one is tried."""


class Source(Protocol):
    """A place to take a raw file from."""

    @property
    def description(self) -> str:
        """What it is, in words that follow "from"."""
        ...

    def write(self, destination: Path) -> None:
        """Write the raw file, or raise SourceError."""
        ...


@dataclass(frozen=True)
class ArchiveSource:
    """A member of a zip archive on the web."""

    url: str
    member: str
    md5: str
    """What the publisher states of the archive."""
    header: str = ""
    """Put before the member's text, which has no header of its own."""
    timeout_s: float = 5.0
    """Seconds until the answer must begin, and longest silence after that."""

    @property
    def description(self) -> str:
        """The archive and its host."""
        return f"the official archive on {urllib.parse.urlsplit(self.url).netloc}"

    def write(self, destination: Path) -> None:
        """Download the archive, check it and write the member after the header."""
        with tempfile.TemporaryFile() as archive:
            try:
                with _open_url(self.url, self.timeout_s) as response:
                    shutil.copyfileobj(response, archive)
            except (OSError, http.client.HTTPException) as error:
                raise SourceError(f"not reachable: {_reason(error)}") from error
            archive.seek(0)
            md5 = hashlib.file_digest(archive, "md5").hexdigest()
            if md5 != self.md5:
                raise SourceError(f"the archive's md5 is {md5}, not {self.md5}")
            archive.seek(0)
            _extract(archive, self.member, destination, self.header)


@dataclass(frozen=True)
class WheelSource:
    """A data file inside a Python wheel, which pip downloads; it is never installed or imported."""

    requirement: str
    """What pip is asked for, with the exact version."""
    member: str
    timeout_s: float = 120.0
    """Seconds that pip may take."""

    @property
    def description(self) -> str:
        """The wheel."""
        return f"the data files of {Path(self.requirement).name} (a wheel; pip only downloads it)"

    def write(self, destination: Path) -> None:
        """Let pip download the wheel and write the member."""
        options = "--no-deps --no-cache-dir --only-binary :all: --disable-pip-version-check --quiet"
        with tempfile.TemporaryDirectory(prefix="easrec-") as folder:
            command = [sys.executable, "-m", "pip", "download", *options.split()]
            try:
                result = subprocess.run(
                    [*command, "--dest", folder, self.requirement],
                    capture_output=True,
                    text=True,
                    timeout=self.timeout_s,
                )
            except subprocess.TimeoutExpired as error:
                raise SourceError(f"pip took over {self.timeout_s:g} s") from error
            wheels = list(Path(folder).glob("*.whl"))
            if result.returncode != 0 or len(wheels) != 1:
                said = result.stderr.strip().splitlines()
                raise SourceError(f"pip failed: {said[-1] if said else 'it gave no wheel'}")
            with wheels[0].open("rb") as wheel:
                _extract(wheel, self.member, destination)


@dataclass(frozen=True)
class KnownDataset:
    """A data set that can be loaded by its name."""

    name: str
    raw_file: str
    """Name of the raw file in the cache; all sources give this one file."""
    sha256: str
    """Checksum of the raw file."""
    sources: tuple[Source, ...]
    """Where it can be had, in the order of trying."""
    licence: str
    """Terms of use, printed when the data set is fetched."""


# The official u.data and the rows of RecBole's ml-100k.inter agree in size and wherever they were
# compared. The one checksum holds both to being the same bytes, so that the sources cannot differ even
# in the order of equal timestamps: an archive with other rows is refused and the next source taken.
ML_100K = KnownDataset(
    name="ml-100k",
    raw_file="ml-100k.inter",
    sha256="4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    sources=(
        ArchiveSource(
            url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
            member="ml-100k/u.data",
            md5="0e33842e24a9c977be4e0107933c0723",
            header="user_id:token\titem_id:token\trating:float\ttimestamp:float\n",
        ),
        WheelSource(
            requirement="recbole==1.2.1",
            member="recbole/dataset_example/ml-100k/ml-100k.inter",
        ),
    ),
    licence=(
        "MovieLens 100K, (c) GroupLens Research, University of Minnesota: for research; no "
        "redistribution and no commercial use without permission; acknowledge it in publications "
        "(Harper and Konstan, 2015, doi.org/10.1145/2827872). Full terms: "
        "https://files.grouplens.org/datasets/movielens/ml-100k-README.txt"
    ),
)

KNOWN_DATASETS: dict[str, KnownDataset] = {dataset.name: dataset for dataset in (ML_100K,)}
"""All data sets that can be loaded by name."""


def default_cache_dir() -> Path:
    """Where fetched files are kept: $EASREC_CACHE_DIR, or the user's cache directory."""
    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_dir("easrec"))


def fetch(name: str, cache_dir: Path | None = None) -> Path:
    """The raw file of the known data set `name`, taken from the cache or fetched into it.

    Several processes may call this at once: one fetches, the others wait for it.

    Raises:
        InputError: no source gives the file, or the cache cannot be written.
    """
    dataset = KNOWN_DATASETS[name]
    folder = (default_cache_dir() if cache_dir is None else Path(cache_dir)) / name
    raw_file = folder / dataset.raw_file
    if _has_checksum(raw_file, dataset.sha256):
        return raw_file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not _has_checksum(raw_file, dataset.sha256):
                _fetch_from_first(dataset, raw_file)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({_reason(error)}); set {CACHE_VARIABLE} to another directory"
        ) from error
    return raw_file


def _fetch_from_first(dataset: KnownDataset, raw_file: Path) -> None:
    failures: list[str] = []
    for source in dataset.sources:
        because = f"{failures[-1]}; " if failures else ""
        print(f"{dataset.name}: {because}fetching from {source.description}", file=sys.stderr)
        try:
            write_atomically(raw_file, partial(_write_verified, source, dataset.sha256))
        except SourceError as error:
            failures.append(f"{source.description}: {error}")
        else:
            print(f"{dataset.name}: {dataset.licence}", file=sys.stderr)
            return
    raise InputError(
        f"data set {dataset.name!r} could not be fetched ({'; '.join(failures)}); check the "
        f"connection, or put {dataset.raw_file} at {raw_file}"
    )


def _write_verified(source: Source, sha256: str, destination: Path) -> None:
    source.write(destination)
    if not _has_checksum(destination, sha256):
        raise SourceError("the file's sha256 is not the known one")


def _has_checksum(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == sha256


def _extract(archive: Any, member: str, destination: Path, header: str = "") -> None:
    try:
        with (
            zipfile.ZipFile(archive) as files,
            files.open(member) as content,
            destination.open("wb") as written,
        ):
            written.write(header.encode())
            shutil.copyfileobj(content, written)
    except (zipfile.BadZipFile, KeyError) as error:
        raise SourceError(f"no {member} in the archive: {error}") from error


def _open_url(url: str, timeout_s: float) -> Any:
    """Open `url`, or raise OSError after `timeout_s` in all.

    urlopen's own timeout counts from anew for each address of a host and not at all while its name is
    looked up, hence the thread.
    """
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            outcome.put(urllib.request.urlopen(url, timeout=timeout_s))
        except (OSError, http.client.HTTPException) as error:
            outcome.put(error)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        opened = outcome.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    if isinstance(opened, Exception):
        raise opened
    return opened


def _reason(error: BaseException) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(getattr(cause, "strerror", None) or cause)
