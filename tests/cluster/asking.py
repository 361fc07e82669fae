"""Ask the nodes of a cluster as a sweep does.

`python -m tests.cluster.asking HOST:PORT DIRECTORY DIFFERENCE`. With `-` for the directory nodes need not
see one. DIFFERENCE is `same`, or what is otherwise with the driver: `program`, another version of it;
`module`, one that nodes lack (Ray gives workers the driver's path of modules, so that on one machine they have
all of its modules); or `gone`, an older list of nodes, with those that have died since. A program of its own,
since Ray takes its token once in the life of a process.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from sweeps.cluster import ray_cluster  # chooses settings of Ray, which must not come before

import ray  # isort: skip

from easrec.errors import InputError  # isort: skip
from sweeps import nodes
from sweeps.config import SweepConfig


def _lacks(marker: Path | None) -> tuple[bool, str]:
    raise ModuleNotFoundError("No module named 'easrec'")


def _with_the_dead() -> list[dict[str, Any]]:
    """All nodes that there ever were, once Ray has seen one die."""
    while all(node["Alive"] for node in ray.nodes()):
        time.sleep(0.2)
    return list(ray.nodes())


def main() -> None:
    """Print what was said of the nodes, or null if they were good."""
    address, directory, difference = sys.argv[1:]
    if difference == "program":
        nodes._program = lambda: "0.0.0"
    elif difference == "module":
        nodes._look = _lacks
    said = None
    with ray_cluster(SweepConfig(ray_address=address, device="cpu")) as cluster:
        asked = cluster.workers()
        if difference == "gone":
            asked = _with_the_dead()
        try:
            nodes.check_nodes(None if directory == "-" else Path(directory), asked)
        except InputError as error:
            said = str(error)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
