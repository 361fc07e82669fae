"""The image's file, and the rules of the shell and of Dockerfiles for what lies beside it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
TOOLS = Path(sys.executable).parent
STEPS = re.sub(r"\\\n", " ", (DOCKER / "Dockerfile").read_text())
"""The Dockerfile, an instruction a line."""


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [TOOLS / "hadolint", DOCKER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", ["submit.sh", "sweep.sbatch"])
def test_shellcheck_finds_nothing(script: str) -> None:
    done = subprocess.run(
        [TOOLS / "shellcheck", "--norc", DOCKER / script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_installs_as_make_install_does() -> None:
    """Everybody's `make install`, with optional dependencies that the tests' environment has as well."""
    (command,) = re.findall(r"^RUN .*make install (.+)$", STEPS, re.MULTILINE)
    assert "pip install" not in STEPS
    (extras,) = re.findall(r"EXTRAS=(\S+)", command)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"easrec[{extras}]" in project["optional-dependencies"]["dev"]
    # What make runs, with the words that the image's step passes to it.
    done = subprocess.run(
        ["make", "-C", ROOT, "--dry-run", "--always-make", "install", "VENV=/opt/venv", f"EXTRAS={extras}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(rf"pip install .* -c constraints\.txt -e '\.\[{extras}\]'", done.stdout)
    assert "VENV=/opt/venv" in command


@pytest.mark.parametrize(
    ("torch", "index", "built", "status", "said"),
    [
        ("cpu", "", "cpu", 0, "PIP_ARGS=--no-cache-dir  --quiet"),
        ("cpu", "URL", "cpu", 0, "PIP_ARGS=--no-cache-dir --extra-index-url URL --quiet"),
        ("cuda", "URL", "cuda", 0, "PIP_ARGS=--no-cache-dir  --quiet"),
        (
            "cpu",
            "",
            "cuda",
            2,
            "TORCH=cpu, but pip's index gave a build for cuda: name another, for cpu by CPU_INDEX",
        ),
        ("rocm", "", "cpu", 2, "TORCH must be cpu or cuda, got 'rocm'"),
    ],
)
def test_the_image_has_the_torch_that_was_asked_for(
    tmp_path: Path, torch: str, index: str, built: str, status: int, said: str
) -> None:
    """The step of the image in a directory of the test's own, with stand-ins for make and Python."""
    (step,) = re.findall(r"^RUN (mkdir easrec .*)$", STEPS, re.MULTILINE)
    tools = {
        "make": 'for word; do case "$word" in PIP_ARGS=*) echo "$word";; esac; done',
        "python": f"echo {built}",
    }
    for name, script in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", step.replace("/opt/venv/bin/python", str(tmp_path / "python"))],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "TORCH": torch, "CPU_INDEX": index, "PIP_ARGS": "--quiet"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, said in done.stdout + done.stderr) == (status, True)


def test_the_code_that_is_copied_last_belongs_to_root() -> None:
    final = STEPS.split("\nFROM ")[-1]
    copied = re.findall(r"^COPY (?!--from)(\S+) /app/\S+$", final, re.MULTILINE)
    assert copied == ["easrec", "sweeps", "pipelines"]
    assert "--chown" not in final
    assert final.index("\nUSER 10001:10001\n") > max(final.index(f"COPY {name}") for name in copied)


def test_nothing_but_what_the_image_needs_is_sent_to_the_build() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    needed = {
        name
        for words in re.findall(r"^COPY (?!--from)(.+) \S+$", STEPS, re.MULTILINE)
        for name in words.split()
    }
    assert allowed == needed
