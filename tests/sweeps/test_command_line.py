"""What is said of a command line that cannot be meant."""

import io
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from easrec.errors import InputError
from sweeps.command_line import parse

PIPELINES = Path(__file__).parents[2] / "pipelines"


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Nested settings."""

    rate: float = 1.0
    """A rate."""

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise InputError(f"rate must be at least 0, got {self.rate}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Some settings."""

    output: Path
    """Where to."""
    num_layers: int = 1
    """How many."""
    kind: Literal["warm", "fresh"] | None = None
    """Which."""
    shares: tuple[float, ...] = ()
    """Several."""
    most: int | None = None
    """A bound."""
    boundaries: tuple[float, float] | None = None
    """Two."""
    plan: bool = False
    """A flag."""
    inner: Inner = field(default_factory=Inner)
    """More."""


def test_options_become_settings() -> None:
    words = "--output out --num_layers=3 --shares 0 0.5 --plan --kind warm --inner.rate 2"
    assert parse(Settings, "p.py", words.split()) == Settings(
        output=Path("out"), num_layers=3, shares=(0.0, 0.5), plan=True, kind="warm", inner=Inner(rate=2.0)
    )


class Terminal(io.StringIO):
    """A terminal with colours, and with or without line drawing characters."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("columns", ["40", "200"])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "--output must be given"),
        ("--output", "--output needs a value"),
        ("--output o --num-layer 3", "unknown option '--num-layer' (did you mean '--num-layers'?)"),
        ("--output o --num-layer=3", "unknown option '--num-layer' (did you mean '--num-layers'?)"),
        ("--output o --xyz", "unknown option '--xyz'"),
        ("--output o --inner.rat 3", "unknown option '--inner.rat' (did you mean '--inner.rate'?)"),
        ("--output o --plan yes", "'yes' belongs to no option"),
        ("--output o --num-layers many", "--num-layers: 'many' is no whole number"),
        ("--output o --inner.rate fast", "--inner.rate: 'fast' is no number"),
        ("--output o --kind cold", "--kind must be one of fresh, warm, got 'cold'"),
        ("--output o --shares 0 x", "--shares cannot take '0', 'x'"),
        ("--output o --most many", "--most cannot take 'many'"),
        ("--output o --boundaries 1", "--boundaries cannot take '1'"),
        ("--output o --boundaries 1 x", "--boundaries cannot take '1', 'x'"),
        ("--output o --inner.rate -1", "rate must be at least 0, got -1.0"),
    ],
)
def test_a_mistake_is_one_sentence_whatever_the_width(
    words: str,
    sentence: str,
    columns: str,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal(encoding))
    monkeypatch.setattr(sys, "stderr", Terminal(encoding))
    with pytest.raises(InputError) as raised:
        parse(Settings, "p.py", words.split())
    assert str(raised.value) == f"{sentence}; see --help"
    assert sys.stdout.getvalue() == sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_help_is_printed_and_ends_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(Settings, "p.py", ["--help"])
    assert end.value.code in (None, 0)
    assert "--num-layers" in capsys.readouterr().out


@pytest.mark.parametrize("script", sorted(path.name for path in PIPELINES.glob("*.py")))
def test_every_pipeline_says_so_in_one_line_and_ends_with_status_2(script: str, tmp_path: Path) -> None:
    needed = {"search_and_retrain.py": ["--output", "out"], "train_network.py": ["--output", "out"]}
    words = [*needed.get(script, []), "--datta", "log.csv"]
    done = subprocess.run(
        [sys.executable, str(PIPELINES / script), *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{script}: unknown option '--datta' (did you mean '--data'?); see --help\n"
    assert list(tmp_path.iterdir()) == []


def test_an_option_of_another_program_says_where_it_is() -> None:
    elsewhere = {"--ray-address": "on a cluster it is lambda_sweep.py"}
    for words in (["--ray-address", "auto"], ["--ray-address=auto"], ["--ray_address", "auto"]):
        with pytest.raises(InputError, match=r"^on a cluster it is lambda_sweep\.py$"):
            parse(Settings, "p.py", ["--output", "o", *words], elsewhere=elsewhere)
        with pytest.raises(InputError, match=r"^on a cluster it is lambda_sweep\.py$"):
            parse(Settings, "p.py", words, elsewhere=elsewhere)  # --output is missing, which is not the point
    with pytest.raises(InputError, match="unknown option '--ray-port'"):
        parse(Settings, "p.py", ["--output", "o", "--ray-port", "1"], elsewhere=elsewhere)
