"""What every benchmark does around its work: options from a dataclass, one sentence for what is wrong."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tyro

from easrec.errors import InputError

T = TypeVar("T")


def run_script(run: Callable[[T], None], settings: type[T]) -> int:
    """Run with the settings that the command line gives; returns the exit status."""
    try:
        run(tyro.cli(settings))
    except InputError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 2
    return 0
