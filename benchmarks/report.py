"""RESULTS.md: one section per benchmark, each replaced as a whole by the run that wrote it."""

import dataclasses
import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers.client import Times

from easrec.files import write_atomically
from sweeps.hardware import cpu_name

RESULTS = Path(__file__).with_name("RESULTS.md")
_PLACES = ("recbole", "rectools", "pip_args", "directory", "report_only")
_TITLE = "# Results of the benchmarks\n\nWritten by the scripts beside this file; see [README.md](README.md)."


def write_section(title: str, body: str, path: Path = RESULTS) -> None:
    """Put `body` under the heading `title`, in place of what was there; other sections stay as they are."""
    text = path.read_text(encoding="utf-8") if path.exists() else _TITLE + "\n"
    head, *parts = text.split("\n## ")
    sections = dict(part.split("\n", 1) for part in parts)
    sections[title] = f"\n{body.strip()}\n"
    whole = head.rstrip() + "\n" + "".join(f"\n## {name}\n{content}" for name, content in sections.items())
    write_atomically(path, lambda temporary: temporary.write_text(whole, encoding="utf-8"))


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    rule = ["---", *("---:" for _ in columns[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, rule, *rows))


def times_table(title: str, times: Mapping[int, Mapping[str, Times]]) -> str:
    """Times by number of threads and entrant; the first entrant is what the others are compared with."""
    first = next(iter(next(iter(times.values()))))
    rows = [
        [
            name,
            str(threads),
            *map(milliseconds, (of.median, of.quantile(0.95), of.quantile(0.99))),
            f"{of.ratio(by_name[first]):.2f}",
            f"{len(of.all):,}",
        ]
        for threads, by_name in times.items()
        for name, of in by_name.items()
    ]
    return markdown_table((title, "threads", "median", "p95", "p99", f"times {first}", "timed"), rows)


def paragraph(text: str) -> str:
    """Text that was broken into lines as one line."""
    return " ".join(text.split())


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds of three digits; None, of which nothing is known, as a dash."""
    return "-" if seconds is None else f"{seconds * 1000:.3g}" if seconds < 1 else f"{seconds * 1000:,.0f}"


def verdict(what: str, value: float, target: float, unit: str, *, most: bool = False) -> str:
    """A line that says whether a target is met; with `most`, one that may not be passed."""
    met = value <= target if most else value >= target
    bound = "at most" if most else "at least"
    figures = f"{value:.2f} {unit}".strip()
    return f"- {what}: {figures} (target: {bound} {target:g}): **{'met' if met else 'not met'}**"


def judged(value: float, target: float) -> str:
    """A cell that says whether a value reaches a target."""
    return f"{target:g}, {'met' if value >= target else 'not met'}"


def command(script: str, config: Any) -> str:
    """The command that gives `config`, a dataclass of options; of absolute paths the last name alone.

    Options that only say where something is or comes from are left out: they name places of one machine.
    """
    words = [f"python benchmarks/{script}"]
    for option in dataclasses.fields(config):
        value = getattr(config, option.name)
        if value == option.default or option.name in _PLACES:
            continue
        if isinstance(value, tuple):
            value = " ".join(map(str, value))
        elif isinstance(value, Path) and value.is_absolute():
            value = value.name
        words.append(f"--{option.name.replace('_', '-')} {value}")
    return " ".join(words)


def conditions(command_line: str, versions: dict[str, str], allocator: str) -> str:
    """What the figures were made with: the command, the day, the processor, versions."""
    libraries = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"`{command_line}`, {datetime.date.today().isoformat()}; {cpu_name()}, {os.cpu_count()} cores; "
        f"Python {platform.python_version()}, {libraries}; {allocator}."
    )


def own_versions(*names: str) -> dict[str, str]:
    """Versions of libraries in this environment."""
    return {name: version(name) for name in names}
