"""--plan on a real cluster of two nodes, one of them kept for measuring; the GPUs are claims."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.two_nodes import ROOT, TwoNodes, two_nodes

pytestmark = pytest.mark.slow

HEAD = ("--num-cpus=2", "--num-gpus=1")
MEASURING = ("--num-cpus=3", "--num-gpus=1", '--resources={"latency": 1}')


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with two_nodes(HEAD, MEASURING) as started:
        yield started


def _program(cluster: TwoNodes, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, ROOT / "pipelines" / "lambda_sweep.py", "--plan",
            "--ray-address", cluster.address, *map(str, words),
        ],
        cwd=cwd, capture_output=True, text=True, timeout=600, env=os.environ | cluster.environment,
    )  # fmt: skip


@contextlib.contextmanager
def _held(cluster: TwoNodes, cpus: int) -> Iterator[None]:
    """Another program has CPUs of the cluster for the length of a `with`."""
    command = [sys.executable, "-m", "tests.cluster.holding", cluster.address, str(cpus)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | cluster.environment
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield
        finally:
            process.terminate()


def test_hours_are_those_of_the_cluster_and_times_are_taken_where_the_work_would_be(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    lines = cluster.run("planning", seen, 120)
    # Two trials share a GPU and each needs a CPU: two on each node. Six trials of 360 + 360 s are two waves;
    # both warm-ups of 180 s run at once; six architectures are measured for 36 s on all CPUs of one node.
    assert lines[-6:] == [
        f"on the cluster at {cluster.address}: 4 trials at once, each with 1 CPU and 0.5 GPU",
        "  warm-ups: 2 of about 3 min 0 s, 0.10 CPU-hours and 0.05 GPU-hours",
        "  searches: 6 of about 6 min 0 s, 0.60 CPU-hours and 0.30 GPU-hours",
        "  retrainings: 6 of about 6 min 0 s, 0.60 CPU-hours and 0.30 GPU-hours",
        "  measurements: 6 of about 36 s on cpu of 127.0.0.3, one at a time, 0.18 CPU-hours and 0.00 "
        "GPU-hours",
        "estimated time: about 30 min 36 s and 1.48 CPU-hours and 0.65 GPU-hours, if every lambda gives its "
        "own architecture and a retraining takes 20 epochs",
    ]
    epochs, measuring = map(json.loads, seen.read_text().splitlines())
    assert (epochs["what"], epochs["device"], epochs["gpus"]) == ("epochs", "cuda", "0")
    assert (epochs["assigned"]["CPU"], epochs["assigned"]["GPU"]) == (1.0, 0.5)
    assert (measuring["what"], measuring["device"], measuring["node"]) == ("measuring", "cpu", "127.0.0.3")
    assert (measuring["assigned"]["CPU"], measuring["assigned"].get("GPU", 0.0)) == (3.0, 0.0)


def test_what_others_hold_is_said_and_a_full_cluster_is_not_waited_for(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    with _held(cluster, 5):
        assert cluster.run("planning", tmp_path / "seen", 5) == [
            "--plan times a few steps on cuda on a node of the cluster, but within 5 s none had 1 CPU and "
            "0.5 GPU free (in use: 5 of 5 CPUs); try again when there is room"
        ]
        assert not (tmp_path / "seen").exists()
    with _held(cluster, 1):
        lines = cluster.run("planning", tmp_path / "seen", 60)
    assert "  in use by others now: 1 of 5 CPUs; the estimate takes all for this sweep" in lines
    assert lines[-7].endswith(": 4 trials at once, each with 1 CPU and 0.5 GPU")


def test_the_program_plans_and_refuses_as_a_sweep_and_writes_nothing(
    cluster: TwoNodes, tmp_path: Path
) -> None:
    log = tmp_path / "log.csv"
    users = [user for user in range(30) for _ in range(9)]
    rows = (f"{user},{(user + 7 * n) % 20},{n}" for n, user in enumerate(users))
    log.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    options = (
        "--data", log, "--preset", "smoke", "--max-length", 8, "--output", tmp_path / "results",
        "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db",
    )  # fmt: skip

    done = _program(cluster, *options, "--device", "cpu", "--measure-on", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"on the cluster at {cluster.address}: 5 trials at once, each with 1 CPU\n" in done.stdout
    assert re.search(r"measurements: 2 of about .* on cpu of 127\.0\.0\.3, one at a time, ", done.stdout)
    assert re.search(r"estimated time: about .* and \d+\.\d\d CPU-hours, if every lambda", done.stdout)

    refusals = [
        # A sweep would take the GPU: the steps are timed where a trial would run, and there is no CUDA.
        ((), "--plan times a few steps on cuda on a node of the cluster, and there that failed ("),
        (("--cpus-per-trial", 4), "--cpus-per-trial 4 is more than the 3 CPUs that Ray has on a node"),
        (
            ("--measure-on", "A100"),
            "--measure-on A100: no node with the Ray resource 'latency' has accelerator",
        ),
    ]
    for words, said in refusals:
        done = _program(cluster, *options, *words, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert done.stderr.startswith(f"lambda_sweep.py: {said}")
    assert list(tmp_path.iterdir()) == [log]
