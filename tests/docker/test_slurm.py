"""docker/sweep.sbatch, with stand-ins for srun and scontrol that run here what Slurm runs on nodes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docker" / "sweep.sbatch"

SRUN = """#!/bin/sh
printf '%s\\n' "$@" > "$LOGS/srun"
[ -z "$RAY_AUTH_TOKEN_PATH" ] || stat -c '%a %s' "$RAY_AUTH_TOKEN_PATH" > "$LOGS/token"
[ -z "$ONLY_LOG" ] || exit 0
while [ "$1" != ray ]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
echo "$*" >> "$LOGS/scontrol"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of one node with one CPU."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LOGS": str(tmp_path),
        "VENV": str(Path(sys.executable).parent.parent),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_ON_NODE": "1",
        "OMP_NUM_THREADS": "1",
    }


def batch(
    *words: object, environment: dict[str, str], **variables: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", SCRIPT, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment | variables,
    )


def test_what_cannot_be_meant_is_refused_in_one_sentence(slurm: dict[str, str], tmp_path: Path) -> None:
    for words in ((), ("runs/first",), ("--output", "/runs/first")):
        done = batch(*words, environment=slurm)
        assert (done.returncode, done.stdout) == (2, "")
        got = words[0] if words else ""
        assert done.stderr == (
            "sweep.sbatch: the first argument must be the sweep's directory, an absolute path that all nodes "
            f"see, got '{got}'\n"
        )
    done = batch("/runs/first", environment=slurm, SLURM_SUBMIT_DIR="/somewhere")
    assert done.returncode == 2
    assert "'/somewhere' is not easrec's directory; call sbatch there" in done.stderr
    done = batch("/runs/first", environment=slurm, VENV="/somewhere")
    assert done.returncode == 2
    assert "there is no environment in '/somewhere'; run make install" in done.stderr
    assert not (tmp_path / "srun").exists()


def test_each_task_of_an_array_sweeps_a_seed_of_its_own(slurm: dict[str, str], tmp_path: Path) -> None:
    output = tmp_path / "sweeps" / "seeds"
    (output / "seed-4").mkdir(parents=True)
    (output / "seed-4" / "sweep.json").write_text("{}")
    ports = set()
    for task, resume in (("3", []), ("4", ["--resume"])):
        done = batch(
            output, "--tradeoffs", "0", "1",
            environment=slurm | {"ONLY_LOG": "yes", "SLURM_ARRAY_TASK_ID": task},
            SLURM_JOB_ID=f"100{task}", SLURM_JOB_NUM_NODES="2", SLURM_GPUS_ON_NODE="8",
            SLURM_CPUS_ON_NODE="64",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        asked = (tmp_path / "srun").read_text().split("\n")[:-1]
        assert {"--nodes=2", "--ntasks=2", "--cpus-per-task=64", "--num-cpus=64", "--num-gpus=8"} < set(asked)
        assert asked[asked.index("--min-nodes") + 1] == "2"
        ports.add(asked[asked.index("--address") + 1])
        sweep = asked[asked.index(f"{ROOT}/pipelines/lambda_sweep.py") + 1 :]
        expected = [*resume, "--seed", task, "--tradeoffs", "0", "1"]
        assert sweep == ["--ray-address", "auto", "--output", f"{output}/seed-{task}", *expected]
    assert len(ports) == 2
    # Nobody else reads the token, which is gone with the job.
    assert (tmp_path / "token").read_text() == "600 64\n"
    assert [path.name for path in output.iterdir()] == ["seed-4"]


def test_a_token_of_the_users_own_is_left_where_it_is(slurm: dict[str, str], tmp_path: Path) -> None:
    done = batch(tmp_path / "first", environment=slurm | {"ONLY_LOG": "yes"}, RAY_AUTH_TOKEN="of-their-own")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "token").exists()
    assert "of-their-own" not in (tmp_path / "srun").read_text() + done.stdout + done.stderr


def in_namespaces() -> list[str] | None:
    """A command that runs another where it sees no other processes, ports or Rays; None: not allowed here.

    `ray symmetric-run` refuses a machine on which another Ray runs, and stops all Rays that it sees.
    """
    command = ["unshare", "--pid", "--mount", "--net", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        command += ["--user", "--map-root-user"]
    # Without servers, names that only the network knows fail at once instead of after seconds each.
    inside = (
        "ip link set lo up && mount --bind /dev/null /etc/resolv.conf && "
        'mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && "$@"'
    )
    command += ["sh", "-c", f"{inside}; exit $?", "sh"]
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return None
    return command if subprocess.run([*command, "true"], capture_output=True).returncode == 0 else None


@pytest.mark.slow
@pytest.mark.skipif(
    "EASREC_TEST_SLURM" not in os.environ, reason="two sweeps, which take minutes: set EASREC_TEST_SLURM=1"
)
def test_a_sweep_that_the_time_limit_stops_is_queued_again_and_goes_on(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    namespaces = in_namespaces()
    if namespaces is None:
        pytest.skip("needs namespaces of its own: unshare and ip, as root or where users may make them")
    log = tmp_path / "log.csv"
    rows = [f"u{user},i{(user * 7 + step * step) % 50},{step}" for user in range(40) for step in range(12)]
    log.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    output = tmp_path / "sweeps" / "first"
    words = [
        *namespaces, "bash", SCRIPT, output, "--data", log, "--preset", "smoke", "--tradeoffs", "0", "3",
        "--hidden-size", "16", "--inner-size", "32", "--num-layers", "2", "--max-length", "10",
    ]  # fmt: skip
    with (tmp_path / "job.log").open("w") as file:
        job = subprocess.Popen(words, env=slurm, stdout=file, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 480
            while not (output / "sweep.json").is_file():
                assert job.poll() is None, (tmp_path / "job.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "job.log").read_text()
                time.sleep(0.2)
            # Its subshells, which come after it, look the same.
            script = next(
                process
                for process in psutil.Process(job.pid).children(recursive=True)
                if process.cmdline()[:2] == ["bash", str(SCRIPT)]
            )
            script.send_signal(signal.SIGUSR1)
            assert job.wait(timeout=120) == 130, (tmp_path / "job.log").read_text()
        finally:
            job.kill()
            job.wait()
    said = (tmp_path / "job.log").read_text()
    assert "stopped; what is finished is kept" in said
    assert "back into the queue" in said
    assert (tmp_path / "scontrol").read_text() == "requeue 1234567\n"
    assert "--resume" not in (tmp_path / "srun").read_text().split()
    assert not (output / "results.parquet").exists()

    again = subprocess.run(words, env=slurm, capture_output=True, text=True, check=False, timeout=600)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "--resume" in (tmp_path / "srun").read_text().split()
    assert sorted(pd.read_parquet(output / "results.parquet")["tradeoff"]) == [0.0, 3.0]
    assert (tmp_path / "scontrol").read_text() == "requeue 1234567\n"
    assert [path.name for path in output.parent.iterdir()] == ["first"]
