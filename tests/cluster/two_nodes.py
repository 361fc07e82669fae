"""Two real Ray nodes on this machine: each a `ray start` of its own, at a loopback address of its own.

GPUs are as many as `--num-gpus` says: Ray schedules them, and hides them from processes, whether or not they
are there. Either node can be killed as a machine that loses its power is.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
START_S = 300.0
"""Seconds for a node to start on a busy machine."""


@dataclass(frozen=True)
class Node:
    """A running node."""

    address: str
    """Its IP address."""
    process: "subprocess.Popen[bytes]"
    """Of its `ray start --block`."""
    cache: Path
    """What it has for the user's cache directory: nodes share none."""

    def processes(self) -> list[psutil.Process]:
        """All of its processes: `ray start`, the raylet, workers."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def trials(self) -> list[psutil.Process]:
        """Those that are running a trial at this moment."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if any(".train" in word for word in process.cmdline()[:1]):
                    found.append(process)
        return found

    def kill(self) -> None:
        """SIGKILL to all its processes, the first of them first: nothing of it says goodbye."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(timeout=60)

    def stop(self) -> None:
        """End it in good order, if it still runs."""
        if self.process.poll() is None:
            processes = self.processes()
            self.process.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs(processes, timeout=30)
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait(timeout=60)


@dataclass(frozen=True)
class TwoNodes:
    """A cluster of two nodes."""

    address: str
    """HOST:PORT, for --ray-address."""
    environment: dict[str, str]
    """What a process needs besides its own environment to join it."""
    head: Node
    other: Node

    def run(self, script: str, *words: object, cwd: Path = ROOT) -> Any:
        """Run a program of this directory on the cluster; returns the JSON value that it printed last."""
        done = subprocess.run(
            [sys.executable, "-m", f"tests.cluster.{script}", self.address, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env=os.environ | self.environment,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def sweep(self, *words: object, **variables: str) -> "subprocess.Popen[str]":
        """Start pipelines/lambda_sweep.py on the cluster."""
        return subprocess.Popen(
            [
                sys.executable, str(ROOT / "pipelines" / "lambda_sweep.py"), "--ray-address", self.address,
                *map(str, words),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | self.environment | variables,
        )  # fmt: skip


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def two_nodes(
    head: Sequence[str],
    other: Sequence[str],
    *,
    places: Sequence[Path] | None = None,
) -> Iterator[TwoNodes]:
    """A cluster for the length of a `with`.

    Args:
        head: options of the first node's `ray start`, its resources.
        other: those of the second's.
        places: working directories of their processes, by default one for both.
    """
    # Ray's sockets have paths of at most 107 letters, which pytest's directories leave no room for.
    directory = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    # Other tests may leave settings of a Ray of their own behind in this process.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    shared = {
        "HOME": str(directory),
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "OMP_NUM_THREADS": "1",
    }
    port, client = free_ports(2)
    address = f"127.0.0.2:{port}"
    nodes: list[Node] = []

    def start(ip: str, cwd: Path, *words: str) -> Node:
        agent, agent_grpc, metrics = free_ports(3)
        cache = directory / f"cache-{ip}"
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block", f"--node-ip-address={ip}",
            f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
            f"--metrics-export-port={metrics}", "--min-worker-port=0", "--max-worker-port=0",
            "--object-store-memory=100000000", "--disable-usage-stats", *words,
        ]  # fmt: skip
        environment = plain | shared | {"EASREC_CACHE_DIR": str(cache)}
        deadline_s = time.monotonic() + START_S
        while True:
            with (directory / f"{ip}.log").open("wb") as log:
                process = subprocess.Popen(
                    command,
                    cwd=cwd,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            nodes.append(Node(ip, process, cache))
            said = ""
            while process.poll() is None and "Ray runtime started" not in said:
                assert time.monotonic() < deadline_s, said
                time.sleep(0.1)
                said = (directory / f"{ip}.log").read_text()
            if process.poll() is None:
                return nodes[-1]
            # Ray gives a node thirty seconds, which a busy machine does not give it.
            assert "timed out during startup" in said, said

    try:
        first_place, second_place = places or (directory, directory)
        first = start(
            "127.0.0.2", first_place, "--head", f"--port={port}", f"--ray-client-server-port={client}",
            "--include-dashboard=false", f"--temp-dir={directory}", *head,
        )  # fmt: skip
        second = start("127.0.0.3", second_place, f"--address={address}", *other)
        yield TwoNodes(address, shared, first, second)
    finally:
        for node in reversed(nodes):
            node.stop()
        shutil.rmtree(directory, ignore_errors=True)
