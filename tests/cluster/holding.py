"""Hold CPUs of a cluster, as another user's work does, until this process is ended.

`python -m tests.cluster.holding HOST:PORT CPUS` prints `held` when it has them.
"""

import sys
import time

from sweeps.cluster import ray_cluster  # chooses settings of Ray, which must not come before

import ray  # isort: skip

from sweeps.config import SweepConfig


def _hold() -> None:
    time.sleep(3600)


def main() -> None:
    """See the module."""
    address, cpus = sys.argv[1], int(sys.argv[2])
    with ray_cluster(SweepConfig(ray_address=address, device="cpu")):
        there = ray.available_resources()["CPU"]
        held = [ray.remote(_hold).options(num_cpus=1).remote() for _ in range(cpus)]
        while ray.available_resources().get("CPU", 0.0) > there - len(held):
            time.sleep(0.2)
        print("held", flush=True)
        time.sleep(3600)


if __name__ == "__main__":
    main()
