"""pipelines/explore.py as a user meets it, before anything is trained."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.explore_config import ExploreConfig, option

SCRIPT = Path(__file__).parent.parent / "pipelines" / "explore.py"


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False, cwd=cwd
    )


def test_help_explains_every_option_and_none_of_a_grid() -> None:
    done = run("--help")
    assert done.returncode == 0
    words = re.sub(r"[│╭╮╰╯─\s]+", " ", done.stdout)
    for field in dataclasses.fields(ExploreConfig):
        explained = re.search(rf"{option(field.name)} (\S+ ){{4,99}}?\(default:", words)
        assert bool(explained) == (field.name not in ("tradeoffs", "plan", "from_run", "independent")), (
            field.name
        )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--tradeoffs", "0", "1"], "explore.py draws its lambdas from a range, --tradeoff-range LOW HIGH"),
        (["--plan"], "explore.py cannot say beforehand what it will train"),
        (["--tradeoff-range", "1", "0.1"], "--tradeoff-range must be two numbers above 0, the lower first"),
        (["--sampler", "best"], "--sampler must be one of gp, nsgaii, qmc, random, tpe, got 'best'"),
        (["--objectives", "flops"], "--objectives must be two or three different ones"),
        (["--resume"], "--resume needs --output"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_status_2(
    words: list[str], sentence: str, tmp_path: Path
) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("explore.py: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
