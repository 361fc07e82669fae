"""Command lines of the pipelines: options from a dataclass, and one sentence for what is wrong with them."""

import contextlib
import dataclasses
import difflib
import io
import os
import re
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import tyro

from easrec.errors import InputError

T = TypeVar("T")

_SENTENCES = (
    # What tyro says -> what is said instead; all else is passed on as tyro says it.
    (r"Error parsing (--\S+): invalid literal for int\(\) with base 10: (.+)", r"\1: \2 is no whole number"),
    (r"Error parsing (--\S+): could not convert string to float: (.+)", r"\1: \2 is no number"),
    # Of an option that may be left out, tyro tells what each of its types says.
    (r"Error parsing (--\S+): no type matching .* instantiated from \[(.+?)\]\..*", r"\1 cannot take \2"),
    (r"Error parsing (--\S+): Could not find valid parse for arguments: \[(.+)\]", r"\1 cannot take \2"),
    (r"Missing value for argument '(--[^']+)'\. .*", r"\1 needs a value"),
)


_CHOICE = r"invalid choice (.+) for argument '(--[^']+)'\. Expected one of \((.*?),?\)\."


def parse(
    settings: type[T],
    prog: str,
    words: list[str] | None = None,
    *,
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> T:
    """The settings that a command line gives; --help prints the help and ends the program.

    Args:
        settings: a dataclass: fields are options, their docstrings the help.
        prog: what the program is called.
        words: the command line; None: that of this process.
        elsewhere: options of other programs that people may look for here -> what to do instead.

    Raises:
        InputError: an option that is unknown, missing or has no such value, in one sentence.
    """
    words = sys.argv[1:] if words is None else words
    said = io.StringIO()
    try:
        # tyro writes what is wrong into a box of several lines.
        with contextlib.redirect_stderr(said):
            try:
                parsed, unknown = tyro.cli(
                    settings,
                    prog=prog,
                    args=words,
                    config=(tyro.conf.FlagCreatePairsOff,),
                    return_unknown_args=True,
                )
            finally:
                sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the help has seen enough; what is left of it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except SystemExit as end:
        if end.code in (None, 0):
            raise
        # Before what tyro says: who wants another program does not care which options are missing here.
        raise InputError(
            _elsewhere(words, elsewhere) or f"{_sentence(said.getvalue())}; see --help"
        ) from None
    sys.stderr.write(said.getvalue())  # warnings, if there are some
    if unknown:
        raise InputError(_elsewhere(unknown, elsewhere) or f"{_unknown(unknown[0], settings)}; see --help")
    result: T = parsed
    return result


def _elsewhere(words: list[str], elsewhere: Mapping[str, str]) -> str | None:
    """What to do instead of the first of these words that is an option of another program."""
    names = (word.split("=")[0].replace("_", "-") for word in words)
    return next((elsewhere[name] for name in names if name in elsewhere), None)


def _unknown(word: str, settings: type[Any]) -> str:
    if not word.startswith("-"):
        return f"{word!r} belongs to no option"
    name = word.split("=")[0]
    close = difflib.get_close_matches(name.replace("_", "-"), _options(settings), n=1, cutoff=0.6)
    return f"unknown option {name!r}" + (f" (did you mean {close[0]!r}?)" if close else "")


def _options(settings: type[Any], prefix: str = "--") -> list[str]:
    """All options, those of nested settings too."""
    found = []
    for field in dataclasses.fields(settings):
        name = prefix + field.name.replace("_", "-")
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            found += _options(field.type, f"{name}.")
        else:
            found.append(name)
    return found


def _sentence(box: str) -> str:
    """What a box of tyro's says, without its title, frame, colours and helptext.

    >>> _sentence("╭─ Value error ──╮\\n│ Error parsing --seeds: bad │\\n│ ─── │\\n│ For full helptext │")
    'Error parsing --seeds: bad'
    """
    lines = [line.strip("│╭╮╰╯ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:]]
    lines = [line for line in lines if line]
    rules = [at for at, line in enumerate(lines) if set(line) <= set("─-")]
    if rules and rules[0] == 0:  # below the title, where the terminal knows no frames
        lines, rules = lines[1:], [at - 1 for at in rules[1:]]
    rule = rules[0] if rules else len(lines)
    text = " ".join(lines[:rule])
    if text.startswith("Missing from"):
        required = [line.split()[0] for line in lines[:rule] if line.startswith("--")]
        return f"{', '.join(required)} must be given"
    if choice := re.fullmatch(_CHOICE, text):
        # None stands for an option that is left out.
        choices = sorted(set(re.findall(r"'([^']*)'", choice[3])) - {"None"})
        return f"{choice[2]} must be one of {', '.join(choices)}, got {choice[1]}"
    for pattern, replacement in _SENTENCES:
        if re.fullmatch(pattern, text):
            text = re.sub(pattern, replacement, text)
    return re.sub(r"^Error parsing [a-z][\w.-]*: ", "", text.rstrip("."))
