"""Which tasks ran on which node of a cluster, and when: `python -m tests.cluster.timeline HOST:PORT`.

A program of its own, since Ray takes its token once in the life of a process.
"""

import json
import logging
import sys

import sweeps.cluster  # noqa: F401 - chooses settings of Ray, which must not be imported before

import ray  # isort: skip


def main() -> None:
    """Print a list of [what, address of its node, start in s since 1970, end]."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
    tasks = [
        [event["name"], event["pid"], event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6]
        for event in ray.timeline()
        if event["cat"].startswith("task::")
    ]
    print(json.dumps(sorted(tasks, key=lambda task: task[2])))


if __name__ == "__main__":
    main()
