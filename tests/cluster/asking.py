"""Ask the nodes of a cluster as a sweep does.

`python -m tests.cluster.asking HOST:PORT DIRECTORY DIFFERENCE...`. With `-` for the directory nodes need not
see one. Each DIFFERENCE is `same`, or what is otherwise: `program`, the driver has another version of it;
`module`, nodes lack one; `late`, they do not answer in time; `gone`, one was there before and is no more. A
program of its own, since Ray takes its token once in the life of a process.
"""

import json
import sys
import time
import types
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sweeps.cluster import ray_cluster  # chooses settings of Ray, which must not come before

from easrec.errors import InputError  # isort: skip
from sweeps import nodes
from sweeps.config import SweepConfig

GONE = {"NodeID": "0123abcd" * 7, "NodeManagerAddress": "127.0.0.9"}
"""A node that the cluster does not know, as `ray.nodes` would have it."""


def _driver_only(marker: Path | None) -> tuple[bool, str]:
    raise AssertionError("a node has run what it cannot import")


def _sleeps(marker: Path | None) -> tuple[bool, str]:
    time.sleep(3600)
    raise AssertionError("a node has been given an hour")


def _without_a_file() -> None:
    """Put `_driver_only` into a module that this process alone can import: Ray sends functions by name."""
    module = types.ModuleType("driver_only")
    module.__dict__["_driver_only"] = _driver_only
    _driver_only.__module__ = module.__name__
    sys.modules[module.__name__] = module


def main() -> None:
    """Print what was said of the nodes with each difference, null where they were good."""
    address, directory, *differences = sys.argv[1:]
    _without_a_file()
    changes: dict[str, dict[str, Any]] = {
        "same": {"_look": nodes._look},
        "gone": {"_look": nodes._look},
        "program": {"_program": lambda: "0.0.0"},
        "module": {"_look": _driver_only},
        "late": {"_look": _sleeps, "_ANSWER_S": 1.0},
    }
    said: list[str | None] = []
    with ray_cluster(SweepConfig(ray_address=address, device="cpu")) as cluster:
        for difference in differences:
            known = cluster.workers() + ([GONE] if difference == "gone" else [])
            try:
                with patch.multiple(nodes, **changes[difference]):
                    nodes.check_nodes(None if directory == "-" else Path(directory), known)
                said.append(None)
            except InputError as error:
                said.append(str(error))
    print(json.dumps(said))


if __name__ == "__main__":
    main()
