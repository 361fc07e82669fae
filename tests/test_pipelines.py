"""The command line as a user meets it: help, plan, and one clear sentence for each mistake."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.config import SweepConfig, option

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "pipelines" / "lambda_sweep.py"


def run(*words: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200", "TERM": "dumb"},
        check=False,
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A small log of 40 users with 12 interactions each."""
    path = tmp_path / "log.csv"
    rows = [f"u{user},i{(user * 7 + step * step) % 50},{step}" for user in range(40) for step in range(12)]
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    return path


def test_help_imports_none_of_the_slow_libraries() -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{str(SCRIPT)!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'ray', 'mlflow', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_ends_quietly_when_nobody_reads_on() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "--help"], stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_help_explains_every_option() -> None:
    done = run("--help")
    assert done.returncode == 0
    # Wherever the help breaks its lines, the words are those of the settings.
    words = re.sub(r"[│╭╮╰╯─\s]+", " ", done.stdout)
    for field in dataclasses.fields(SweepConfig):
        assert re.search(rf"{option(field.name)} (\S+ ){{4,99}}?\(default:", words), field.name


def test_plan_prints_candidates_flops_and_trials_and_writes_nothing(log: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run(
        "--plan", "--data", log, "--tradeoffs", 0, 0.5, "--seeds", 2, "--device", "cpu",
        "--hidden-size", 16, "--inner-size", 32, "--num-layers", 2, "--max-length", 10,
        cwd=elsewhere,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # N (8 d^2 + 4 d^2 / h + 4 d f + 6 d^2 + 2 d f) with d = 16, f = 32, h = 4, N = 10
    flops = 10 * (8 * 256 + 256 + 4 * 512 + 6 * 256 + 2 * 512)
    assert f"hidden   16  inner    32  {flops:13,d} FLOPs per layer" in done.stdout
    assert "trials (4): lambda 0, 0.5; seeds 0 to 1" in done.stdout
    assert re.search(r"on this machine: \d+ trials? at once, each with 1 CPU\n", done.stdout)
    assert re.search(r"estimated time: about \d+.* and \d+\.\d\d CPU-hours, if every lambda", done.stdout)
    assert done.stderr == ""
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--tradeoffs", "-1"], "--tradeoffs must be finite numbers of at least 0, got -1"),
        (["--resume"], "--resume needs --output"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--hidden-size", "50"], "hidden_size must be a multiple of num_heads"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_status_2(
    words: list[str], sentence: str, tmp_path: Path
) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("lambda_sweep.py: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_may_be_given_as_the_data_set(log: Path, tmp_path: Path) -> None:
    done = run("--plan", "--dataset", log, "--device", "cpu", "--max-length", 10, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "log: 40 users, " in done.stdout


def test_a_directory_in_use_is_refused(log: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    done = run("--data", log, "--output", output)
    assert done.returncode == 2
    assert "is not empty; choose another --output" in done.stderr
