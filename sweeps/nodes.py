"""Whether the nodes of a cluster can work for a sweep: asked of each before anything is computed."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from easrec.errors import InputError
from sweeps.store import code_version

_ANSWER_S = 120.0
"""Seconds for a node to start a process and import torch."""
_APPEARS_S = 5.0
"""Seconds that a file may take to appear on another node of a shared file system."""


def check_nodes(directory: Path | None, nodes: Sequence[Mapping[str, Any]]) -> None:
    """See that nodes read what is written in a directory here, and run the same program.

    Args:
        directory: of the sweep; None where they need not see it.
        nodes: those that will work for it, as `ray.nodes` has them.

    Raises:
        InputError: names the node that cannot, and why.
    """
    ours = _program()
    with _marker(directory) as marker:
        task = ray.remote(_look)
        answers = [
            task.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(marker)
            for node in nodes
        ]
        for name, answer in zip(_names(nodes), answers, strict=True):
            try:
                sees, program = ray.get(answer, timeout=_ANSWER_S)
            except GetTimeoutError as error:
                raise InputError(
                    f"the node {name} of the cluster did not answer within {_ANSWER_S:g} s; see what "
                    "holds it up, or take it out of the cluster"
                ) from error
            except RayTaskError as error:
                raise InputError(
                    f"the node {name} of the cluster cannot run easrec ({_last_line(error)}); install it "
                    "there too, or send the sweep by `ray job submit` with its code"
                ) from error
            except RayError as error:  # not the program's own: the node is gone, or kills its processes
                raise InputError(
                    f"the node {name} of the cluster cannot be asked ({_last_line(error)}); see `ray "
                    "status`, and start the sweep again when the node is back or gone"
                ) from error
            if program != ours:
                raise InputError(
                    f"the node {name} of the cluster has easrec {program} and this machine {ours}; "
                    "install the same on all"
                )
            if not sees:
                raise InputError(
                    f"the node {name} of the cluster does not see the output directory {directory}; "
                    "choose an --output that all nodes share"
                )


def _names(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the nodes are called: by their addresses, and with their ids where several share one."""
    addresses = [node["NodeManagerAddress"] for node in nodes]
    return [
        address if addresses.count(address) == 1 else f"{address} (id {node['NodeID']})"
        for address, node in zip(addresses, nodes, strict=True)
    ]


def _last_line(error: RayError) -> str:
    """What an error of Ray's comes down to: above it are the traceback and Ray's own remarks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".")[:200]


def _program() -> str:
    """What must be the same everywhere: torch may be built for CPUs here and for GPUs there."""
    return code_version().partition("+")[0]


@contextmanager
def _marker(directory: Path | None) -> Iterator[Path | None]:
    if directory is None:
        yield None
        return
    # A new name each time: file systems remember that a name was missing.
    marker = directory / f".seen-{uuid.uuid4().hex}"
    marker.touch()
    try:
        yield marker
    finally:
        marker.unlink(missing_ok=True)


def _look(marker: Path | None) -> tuple[bool, str]:
    """Whether a file is seen here, if there is one, and the program that runs here."""
    deadline_s = time.monotonic() + _APPEARS_S
    while marker is not None and not marker.exists():
        if time.monotonic() > deadline_s:
            return False, _program()
        time.sleep(0.2)
    return True, _program()
