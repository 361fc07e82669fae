"""Finding and opening raw files: in a directory, in a zip archive, or one file among its neighbours."""

import fnmatch
import gzip
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import pyarrow as pa

from easrec.errors import InputError
from easrec.files import what_is_at


@dataclass(frozen=True)
class RawFiles:
    """What lies at `path`: a directory, a zip archive, or a file whose neighbours may be of use.

    Names are those of files without their folders. Files that end in .gz are decompressed as they are read.
    """

    path: Path
    main: str = ""
    """The file that holds the log, whatever its name, where `path` is that file itself."""

    @classmethod
    def at(cls, path: Path | str) -> "RawFiles":
        """The raw files at a path.

        Raises:
            InputError: nothing is there, or it is no archive although it is called one.
        """
        path = Path(path)
        there = what_is_at(path)
        if there == "nothing":
            raise InputError(f"{path}: there is no such file or directory; check the path")
        if there == "directory":
            return cls(path)
        if path.suffix == ".zip":
            if not zipfile.is_zipfile(path):
                raise InputError(f"{path}: this is no zip archive, or not all of it; get the file again")
            return cls(path)
        return cls(path.parent, main=path.name)

    @property
    def described(self) -> str:
        """The path, as it was given."""
        return str(self.path / self.main)

    def find(self, patterns: Sequence[str]) -> str:
        """The name of the log: the file given, or the one that matches the earliest pattern.

        Raises:
            InputError: no file matches, or several match the same pattern.
        """
        name = self.main or self.find_beside(patterns)
        if name is None:
            raise InputError(
                f"{self.described}: holds none of {', '.join(patterns)}; give the directory, archive or file "
                "that does"
            )
        return name

    def find_beside(self, patterns: Sequence[str]) -> str | None:
        """The name of the file that matches the earliest pattern; None if there is none.

        Raises:
            InputError: several files match the same pattern.
        """
        for pattern in patterns:
            found = sorted(name for name in self._places if fnmatch.fnmatchcase(name, pattern))
            if len(found) > 1:
                raise self._ambiguous(found)
            if found:
                return found[0]
        return None

    def _ambiguous(self, found: Sequence[str]) -> InputError:
        named = ", ".join(found[:4]) + (" and more" if len(found) > 4 else "")
        return InputError(f"{self.path}: {named} could all be meant; give the one file")

    def find_items(self, names: Sequence[str]) -> str:
        """The name of the file that describes the items.

        Raises:
            InputError: there is none.
        """
        name = self.find_beside(names)
        if name is None:
            raise InputError(
                f"{self.described}: there is no {' or '.join(names)} beside it, which describes the items; "
                "put it there"
            )
        return name

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """The decompressed bytes of a file that was found.

        Raises:
            InputError: the file cannot be read to its end, or is damaged.
        """
        place = self._place(name)
        try:
            if self._is_archive:
                with (
                    zipfile.ZipFile(self.path) as archive,
                    archive.open(place) as member,
                    _decompressed(name, cast(BinaryIO, member)) as content,
                ):
                    yield content
            else:
                with (
                    (self.path / place).open("rb") as raw,
                    _decompressed(name, raw) as content,
                ):
                    yield content
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise InputError(f"{self.path / place}: cannot be read ({error}); get the file again") from error
        except (pa.ArrowException, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.path / place}: cannot be read ({reason}); get the file again") from error

    @property
    def _is_archive(self) -> bool:
        return self.path.is_file()

    def _place(self, name: str) -> str:
        """Where a file lies; the one that lies least deep if there are several of that name."""
        places = self._places[name]
        least = min(place.count("/") for place in places)
        least_deep = [place for place in places if place.count("/") == least]
        if len(least_deep) > 1:
            raise self._ambiguous(least_deep)
        return least_deep[0]

    @cached_property
    def _places(self) -> dict[str, list[str]]:
        """The places of all files by their names."""
        try:
            if self._is_archive:
                with zipfile.ZipFile(self.path) as archive:
                    places = [place for place in archive.namelist() if not place.endswith("/")]
            elif self.main:
                places = [entry.name for entry in self.path.iterdir() if entry.is_file()]
            else:
                files = (entry for entry in self.path.rglob("*") if entry.is_file())
                places = [entry.relative_to(self.path).as_posix() for entry in files]
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be read ({error.strerror or error}); give files that may be read"
            ) from error
        by_name: dict[str, list[str]] = {}
        for place in sorted(places):
            name = PurePosixPath(place).name
            if not name.startswith("."):  # a Mac adds "._ratings.dat" for ratings.dat to an archive
                by_name.setdefault(name, []).append(place)
        return by_name


@contextmanager
def _decompressed(name: str, content: BinaryIO) -> Iterator[BinaryIO]:
    if name.endswith(".gz"):
        with gzip.open(content) as plain:
            yield cast(BinaryIO, plain)
    else:
        yield content
