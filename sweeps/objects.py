"""Named objects below a URL: a bucket's prefix, or a directory that all machines see.

An object is written whole or not at all, and read whole. Nothing here locks: who writes an object of the same
name later replaces it. What fails for a moment is tried again; what fails for longer is a `StorageError`.
"""

import hashlib
import logging
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow
from pyarrow import fs

from easrec.errors import InputError
from easrec.files import write_atomically
from sweeps.storage_error import StorageError
from sweeps.storage_url import check_storage_url

T = TypeVar("T")

_RETRY_AFTER_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Pauses before what failed is tried again; the client of an object store has tried some times by itself."""

_GS_TRIES_S = 10
"""Seconds for which the client of gs:// tries by itself."""

_CHUNK = 2**20

_REASONS = (
    # What clients of object stores say -> what it means; anything else is passed on.
    ("NO_SUCH_BUCKET", "there is no such bucket"),
    ("ACCESS_DENIED", "access is denied"),
    ("INVALID_ACCESS_KEY_ID", "the access key is not known there"),
    ("SIGNATURE_DOES_NOT_MATCH", "the secret key is not that of the access key"),
    ("NETWORK_CONNECTION", "nothing answers there"),
    ("Bucket '", "there is no such bucket"),
    ("OAuth2 access token", "there are no credentials"),
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """The objects below a URL; it can be sent to other processes and machines."""

    url: str
    """Where, as the user wrote it; holds no credentials."""
    filesystem: Any
    """A `pyarrow.fs.FileSystem`."""
    root: str
    """The prefix within it."""

    def write(self, name: str, data: bytes) -> None:
        """Write an object."""

        def act() -> None:
            with self._writing(name) as stream:
                stream.write(data)

        self._patiently(f"writing {name}", act)

    def upload(self, name: str, file: Path) -> None:
        """Write a file's content as an object."""

        def act() -> None:
            with self._writing(name) as stream, file.open("rb") as source:
                while chunk := source.read(_CHUNK):
                    stream.write(chunk)

        self._patiently(f"writing {name}", act)

    def read(self, name: str) -> bytes | None:
        """The content of an object, or None where there is none."""

        def act() -> bytes | None:
            try:
                with self.filesystem.open_input_stream(self._path(name)) as stream:
                    data: bytes = stream.read()
            except FileNotFoundError:
                return None
            return data

        return self._patiently(f"reading {name}", act)

    def download(self, name: str, file: Path) -> str:
        """Write an object's content to a file, atomically; returns its SHA-256.

        Raises:
            FileNotFoundError: there is no such object.
        """
        digest = hashlib.sha256()

        def act(temporary: Path) -> None:
            nonlocal digest
            digest = hashlib.sha256()
            with (
                self.filesystem.open_input_stream(self._path(name)) as stream,
                temporary.open("wb") as target,
            ):
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    target.write(chunk)

        self._patiently(f"reading {name}", lambda: write_atomically(file, act))
        return digest.hexdigest()

    def delete(self, name: str) -> None:
        """Take an object away, if it is there."""

        def act() -> None:
            try:
                self.filesystem.delete_file(self._path(name))
            except FileNotFoundError:
                return

        self._patiently(f"deleting {name}", act)

    def delete_folder(self, name: str) -> None:
        """Take away all objects whose names begin with NAME/."""

        def act() -> None:
            try:
                self.filesystem.delete_dir(self._path(name))
            except FileNotFoundError:
                return

        self._patiently(f"deleting {name}", act)

    def list(self, folder: str = "") -> tuple[set[str], set[str]]:
        """The objects and the folders directly in a folder, without its name."""

        def act() -> tuple[set[str], set[str]]:
            path = self._path(folder) if folder else self.root
            found = self.filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
            names, folders = (
                {info.base_name for info in found if info.type == kind}
                for kind in (fs.FileType.File, fs.FileType.Directory)
            )
            return names, folders

        return self._patiently(f"listing {folder}", act)

    def probe(self) -> None:
        """Write, read and remove an object, at once or not at all.

        Raises:
            InputError: it cannot be done; says why.
        """
        name, content = f".probe-{uuid.uuid4().hex}", b"easrec"
        try:
            with self._writing(name) as stream:
                stream.write(content)
            with self.filesystem.open_input_stream(self._path(name)) as stream:
                whole = stream.read() == content
            self.filesystem.delete_file(self._path(name))
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(_refusal(self.url, error)) from error
        if not whole:
            raise InputError(
                f"--storage {self.url} does not give back what is written there; choose another --storage"
            )

    def check_readable(self) -> None:
        """Ask for a listing, once.

        Raises:
            InputError: there is nothing, or it may not be read; says why.
        """
        try:
            self.filesystem.get_file_info(fs.FileSelector(self.root))
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(_refusal(self.url, error)) from error

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextmanager
    def _writing(self, name: str) -> Iterator[Any]:
        """A stream whose content becomes the object at the end of a `with`."""
        path = self._path(name)
        if not isinstance(self.filesystem, fs.LocalFileSystem):
            with self.filesystem.open_output_stream(path) as stream:
                yield stream
            return
        # A file appears when it is opened: only its name's change is one step.
        folder, _, base = path.rpartition("/")
        temporary = f"{folder}/.{base}-{uuid.uuid4().hex}"
        self.filesystem.create_dir(folder)
        with self.filesystem.open_output_stream(temporary) as stream:
            yield stream
        self.filesystem.move(temporary, path)

    def _patiently(self, what: str, act: Callable[[], T]) -> T:
        """Do something now or, when the storage fails, within about a minute.

        Raises:
            FileNotFoundError: from `act`, at once.
            StorageError: the storage kept failing.
        """
        for pause_s in (*_RETRY_AFTER_S, None):
            try:
                return act()
            except FileNotFoundError:
                raise
            except (OSError, pyarrow.ArrowException) as error:
                reason = _reason(error)
                if pause_s is None:
                    raise StorageError(f"{what} at {self.url} keeps failing: {reason}") from error
                logger.warning("%s at %s failed (%s); trying again", what, self.url, reason)
            time.sleep(pause_s * random.uniform(0.5, 1.5))  # not all workers at the same moment
        raise AssertionError("the last round returns or raises")


def open_storage(url: str, *, writable: bool = True) -> ObjectStore:
    """The objects below a URL, once they have been reached.

    Args:
        url: an absolute directory, file://, s3:// or gs://.
        writable: whether something will be written there.

    Raises:
        InputError: the URL is none, or what it names cannot be used.
    """
    check_storage_url(url)
    url = url.rstrip("/")
    try:
        filesystem, root = fs.FileSystem.from_uri(_address(url))
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(_refusal(url, error)) from error
    objects = ObjectStore(url, filesystem, root.rstrip("/"))
    if writable:
        objects.probe()
    else:
        objects.check_readable()
    return objects


def _address(url: str) -> str:
    """The URL as the client of the object store takes it."""
    if url.startswith("/"):
        return Path(url).as_uri()
    if url.startswith("gs://") and "retry_limit_seconds" not in url:
        # Its client would try for a quarter of an hour, also without credentials.
        return f"{url}{'&' if '?' in url else '?'}retry_limit_seconds={_GS_TRIES_S}"
    return url


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    for word, meaning in _REASONS:
        if word in text:
            return meaning
    return text[:300] or type(error).__name__


def _refusal(url: str, error: BaseException) -> str:
    remedy = "check the directory, and that you may write there"
    if not url.startswith(("/", "file:")):
        remedy = (
            "check the address and the bucket, and that the credentials of this environment (variables, a "
            "profile, or the machine's role) may use it"
        )
    return f"--storage {url} cannot be used ({_reason(error)}); {remedy}"
