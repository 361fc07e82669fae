"""Environments of their own for RecBole and RecTools, which need older numpy and pandas than easrec does.

python benchmarks/peers/environment.py --peer recbole

Makes one on the first call, in the cache directory and outside the checkout, and prints its Python. Peers are
installed as they are published, with no patch.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import tyro
from filelock import FileLock

from easrec.data.catalog import CACHE_VARIABLE, default_cache_dir
from easrec.errors import InputError
from easrec.files import read_json, write_json

Peer = Literal["recbole", "rectools"]

PACKAGES: dict[Peer, str] = {"recbole": "recbole==1.2.1", "rectools": "rectools==0.19.0"}
"""Installed without their dependencies; of these PEER-requirements.txt lists what is needed."""
_RECIPE = "easrec-recipe.json"
_PYTHONS = ((3, 11), (3, 12))
"""Those that the pinned numpy and pandas are built for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentConfig:
    """Make an environment for a peer, unless it is there."""

    peer: Peer = "recbole"
    """Which one."""
    directory: Path | None = None
    """Where; by default `peers/PEER` in the cache directory (EASREC_CACHE_DIR, or the user's)."""
    pip_args: str = ""
    """Passed to pip, such as an index that serves CPU builds of torch: --pip-args="--extra-index-url URL"."""


def peer_python(config: EnvironmentConfig) -> Path:
    """The Python of an environment in which a peer is installed; makes it when need be.

    Raises:
        InputError: this Python is too new or too old, the directory holds something else, or pip failed.
    """
    if sys.version_info[:2] not in _PYTHONS:
        raise InputError(
            f"{config.peer}'s environment needs Python 3.11 or 3.12, and this is {sys.version.split()[0]}; "
            "make the project's own environment with one of these (make VENV=DIR PYTHON=python3.11)"
        )
    directory = (config.directory or default_cache_dir() / "peers" / config.peer).absolute()
    python = directory / "bin" / "python"
    # The local part of a version (+cpu) is pip's business: the index decides which build it is.
    torch = f"torch=={version('torch').split('+')[0]}"
    package = PACKAGES[config.peer]
    requirements = Path(__file__).with_name(f"{config.peer}-requirements.txt")
    recipe = {
        "python": sys.version.split()[0],
        "torch": torch,
        config.peer: package,
        "requirements": hashlib.sha256(requirements.read_bytes()).hexdigest(),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory.with_name(f".{directory.name}.lock")):
            if _recipe_of(directory) != recipe:
                _make(directory, python, package, [torch, "-r", str(requirements)], config.pip_args)
                write_json(directory / _RECIPE, recipe)
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be written ({error.strerror or error}); choose another --directory, or set "
            f"{CACHE_VARIABLE}"
        ) from error
    return python


def recbole_python(directory: Path | None, pip_args: str) -> Path:
    """`peer_python` of RecBole."""
    return peer_python(EnvironmentConfig(peer="recbole", directory=directory, pip_args=pip_args))


def _recipe_of(directory: Path) -> dict[str, str] | None:
    """What the environment in `directory` was made of; None where it is to be made."""
    if not any(directory.iterdir()):
        return None
    if not (directory / _RECIPE).exists():
        # It may be anything, also another project's environment: it is not ours to delete.
        raise InputError(f"{directory} holds something else; choose another --directory")
    recipe: dict[str, str] = read_json(directory / _RECIPE)
    return recipe


def _make(directory: Path, python: Path, package: str, requirements: list[str], pip_args: str) -> None:
    print(f"making an environment for {package} in {directory}: some minutes", file=sys.stderr)
    shutil.rmtree(directory, ignore_errors=True)
    # Written first, so that what an interrupted call leaves is known as ours.
    write_json(directory / _RECIPE, {})
    venv.create(directory, with_pip=True)
    options = ["--quiet", "--disable-pip-version-check", *shlex.split(pip_args)]
    install = [str(python), "-m", "pip", "install", *options]
    # The caller's PYTHONPATH would let the new environment's pip find packages of this one.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for wanted in (requirements, ["--no-deps", package]):
        done = subprocess.run(
            [*install, *wanted], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise InputError(
                f"pip could not install {' '.join(wanted)} ({said[-1] if said else 'it gave no reason'}); "
                "check the connection, or name an index by --pip-args, and run this again"
            )


def main() -> int:
    """Make the environment and print its Python; returns the exit status."""
    try:
        print(peer_python(tyro.cli(EnvironmentConfig, description=EnvironmentConfig.__doc__)))
    except InputError as error:
        print(f"environment.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
