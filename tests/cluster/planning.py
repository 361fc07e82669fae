"""Plan a sweep on a cluster whose GPUs are none: what would be timed there takes times that are given.

`python -m tests.cluster.planning HOST:PORT SEEN FREE_S`. What the nodes saw of themselves goes to the file
SEEN, a line for each thing timed; FREE_S is how long to wait for room.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray

from easrec.data.sequences import leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from sweeps import plan_timing
from sweeps.config import SweepConfig
from sweeps.estimate import EpochTimes
from sweeps.plan import preset_of
from sweeps.plan_text import plan


def _see(seen_in: Path, what: str, device: str) -> None:
    seen = {
        "what": what,
        "device": device,
        "node": ray.util.get_node_ip_address(),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "all"),
        "assigned": ray.get_runtime_context().get_assigned_resources(),
    }
    with seen_in.open("a") as file:
        file.write(json.dumps(seen) + "\n")


def main() -> None:
    """Print the plan's lines, or what was refused."""
    seen_in = Path(sys.argv[2])

    def time_epochs(*part: Any, device: str, **settings: Any) -> EpochTimes:
        _see(seen_in, "epochs", device)
        return EpochTimes(warmup_s=90.0, search_s=36.0, retrain_s=18.0)

    def time_measuring(*part: Any, device: str) -> float:
        _see(seen_in, "measuring", device)
        return 36.0

    plan_timing.time_epochs = time_epochs
    plan_timing.time_measuring = time_measuring
    plan_timing._FREE_S = float(sys.argv[3])
    config = SweepConfig(
        ray_address=sys.argv[1], preset="smoke", tradeoffs=(0.0, 0.1, 1.0), seeds=2, gpus_per_trial=0.5,
        measure_on="cpu", warmup_epochs=2, search_epochs=10, retrain_epochs=20, patience=5, max_length=8,
    )  # fmt: skip
    data = leave_one_out(synthetic_interactions(40, 40, 8, seed=0))
    try:
        said = plan(config, preset_of(config), data, described="some data").splitlines()
    except InputError as error:
        said = [str(error)]
    print(json.dumps(said))


if __name__ == "__main__":
    main()
