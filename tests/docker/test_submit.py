"""docker/submit.sh, with a Ray cluster of the test's own where one is needed."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent


def submit(
    *words: object, checkout: Path = ROOT, cwd: Path, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Call submit.sh with no variables but these."""
    return subprocess.run(
        [checkout / "docker" / "submit.sh", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), "VENV": str(TOOLS.parent)} | variables,
    )


@pytest.mark.parametrize(
    ("words", "variables", "sentence"),
    [
        (
            ["--output", "/runs/a"],
            {},
            "RAY_ADDRESS must be the address of the cluster's dashboard, as http://127.0.0.1:8265, got ''",
        ),
        (["--output", "/runs/a"], {"RAY_ADDRESS": "head:6379"}, "http://127.0.0.1:8265, got 'head:6379'"),
        (
            ["--tradeoffs", "0"],
            {"RAY_ADDRESS": "http://127.0.0.1:1"},
            "--output must be an absolute path that all nodes see, got ''",
        ),
        (["--output", "runs/a"], {"RAY_ADDRESS": "http://127.0.0.1:1"}, "all nodes see, got 'runs/a'"),
        (["--output=runs/a"], {"RAY_ADDRESS": "http://127.0.0.1:1"}, "all nodes see, got 'runs/a'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(
    words: list[str], variables: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    done = submit(*words, cwd=tmp_path, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("submit.sh: ")
    assert done.stderr.endswith(f"{sentence}\n")
    assert done.stderr.count("\n") == 1


@dataclass(frozen=True)
class Ray:
    """A Ray of one node."""

    dashboard: str
    token: str
    directory: Path


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture
def ray() -> Iterator[Ray]:
    token = secrets.token_hex(16)
    gcs, dashboard, agent, agent_grpc, metrics, client = _free_ports(6)
    # Ray's sockets have paths of at most 107 letters, which pytest's directories leave no room for.
    directory = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    environment = {
        # The cluster's own packages, but not this checkout's code.
        "PATH": f"{TOOLS}:{os.environ['PATH']}",
        "HOME": str(directory),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "OMP_NUM_THREADS": "1",
    }
    with (directory / "head.log").open("w") as log:
        head = subprocess.Popen(
            [
                TOOLS / "ray", "start", "--head", "--block", "--num-cpus=1", "--disable-usage-stats",
                "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={directory}",
                "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
                f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
                f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}",
                "--object-store-memory=200000000",
            ],
            cwd=directory,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 120
        while not _answers(address, token):
            assert head.poll() is None, (directory / "head.log").read_text()
            assert time.monotonic() < deadline, (directory / "head.log").read_text()
            time.sleep(0.5)
        yield Ray(address, token, directory)
    finally:
        head.send_signal(signal.SIGTERM)  # which it passes on to what it has started
        head.wait(timeout=60)
        shutil.rmtree(directory, ignore_errors=True)


def _answers(address: str, token: str) -> bool:
    """Whether jobs can be listed: then the dashboard and its agent are up."""
    request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of this one, which says where it is imported from, with things that nobody should send."""
    root = tmp_path / "check out"
    for name in ("easrec", "sweeps", "pipelines", "docker"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    with (root / "easrec" / "__init__.py").open("a") as file:
        file.write('\nprint("imported from", __file__)\n')
    for name in (
        ".git/config",
        "runs/first/results.parquet",
        "data/log.csv",
        "docker/.env",
        "easrec/key.pem",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("not to be sent")
    return root


@pytest.mark.slow
def test_a_sweep_is_sent_to_a_cluster_with_its_code_and_nothing_else(
    ray: Ray, checkout: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    log = tmp_path / "log.csv"
    rows = [f"u{user},i{(user * 7 + step * step) % 50},{step}" for user in range(40) for step in range(12)]
    log.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    # Spaces and a dollar must arrive as they are.
    output = tmp_path / "results of $HOME"
    words = [
        "--output", output, "--data", log, "--preset", "smoke", "--tradeoffs", 0,
        "--hidden-size", 16, "--inner-size", 32, "--num-layers", 2, "--max-length", 10,
    ]  # fmt: skip
    with pytest.raises(urllib.error.HTTPError, match="401") as without_token:
        urllib.request.urlopen(f"{ray.dashboard}/api/jobs/", timeout=5)
    without_token.value.close()
    refused = submit(*words, checkout=checkout, cwd=elsewhere, RAY_ADDRESS=ray.dashboard, RAY_AUTH_TOKEN="x")
    assert refused.returncode != 0
    assert not output.exists()

    done = submit(
        *words, checkout=checkout, cwd=elsewhere, RAY_ADDRESS=ray.dashboard, RAY_AUTH_TOKEN=ray.token
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert ray.token not in done.stdout + done.stderr
    frame = pd.read_parquet(output / "results.parquet")
    assert frame["tradeoff"].tolist() == [0.0]
    assert frame["valid/full/ndcg_at_10"].between(0, 1).all()

    (sent,) = ray.directory.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    assert f"imported from {sent}/easrec/__init__.py" in done.stdout
    files = {path.relative_to(sent) for path in sent.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert files == {
        Path("pyproject.toml"),
        Path("LICENSE"),
        *(
            path.relative_to(checkout)
            for name in ("easrec", "sweeps", "pipelines")
            for path in (checkout / name).rglob("*.py")
        ),
    }
    assert not list(elsewhere.iterdir())
