"""Trials that look around instead of training: where they are, which GPUs they see, and what data they got.

`python -m tests.cluster.scheduling HOST:PORT DIRECTORY GPUS_PER_TRIAL` sends them to a cluster as a sweep
sends its own, through `sweeps.cluster` and `sweeps.tuner`. Nothing is trained, so the GPUs need not be there.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeps.cluster import alive_nodes, ray_cluster  # chooses settings of Ray, which must not come before

import ray  # isort: skip
from ray import tune  # isort: skip
from ray._private.internal_api import node_stats  # isort: skip

from easrec.data.sequences import leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.files import write_json
from sweeps.config import SweepConfig
from sweeps.plan import build_trials, preset_of
from sweeps.store import OnBusy, Store, code_version
from sweeps.trainable import SharedData
from sweeps.trial import TrialConfig
from sweeps.tuner import train_trials

ROUNDS = 2
"""Trials for each that runs at once."""
_ALL_THERE_S = 120.0


def look_around(
    config: Mapping[str, Any],
    *,
    trials: Mapping[str, TrialConfig],
    data: SharedData,
    store: Store,
    on_busy: OnBusy,
    share: float | None,
) -> None:
    """Leave in the store's directory what a trial sees, and stay until all that run at once have come."""
    trial = trials[config["trial"]]
    start_s = time.time()
    split = data.get()
    (store.root / f"{trial.trial_id}.here").touch()
    slots = len(trials) // ROUNDS
    deadline_s = time.monotonic() + _ALL_THERE_S
    while len(list(store.root.glob("*.here"))) < slots:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{slots} trials should run at once")
        time.sleep(0.05)
    time.sleep(0.2)
    write_json(
        store.root / f"{trial.trial_id}.json",
        {
            "node": ray.util.get_node_ip_address(),
            "process": os.getpid(),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "share": share,
            "checksum": split.checksum,
            "start_s": start_s,
            "end_s": time.time(),
        },
    )
    tune.report({"status": "finished"})


def _held_bytes() -> dict[str, int]:
    """Bytes that the object store of each node was ever given, by its own or another node."""
    return {
        node["NodeManagerAddress"]: node_stats(
            node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False
        ).store_stats.cumulative_created_bytes
        for node in alive_nodes()
    }


def main() -> None:
    """Print what the trials saw, and what each node's object store was given meanwhile."""
    address, directory, gpus = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    data = leave_one_out(synthetic_interactions(3000, 700, 300, seed=0))
    config = SweepConfig(ray_address=address, device="cuda", gpus_per_trial=gpus, preset="smoke")
    with ray_cluster(config) as cluster:
        seeds = SweepConfig(seeds=ROUNDS * cluster.slots, tradeoffs=(0.0,), preset="smoke")
        trials = build_trials(seeds, preset_of(seeds), data, device="cuda", code_version=code_version())
        before = _held_bytes()
        ended: list[str] = []
        crashed = train_trials(
            trials,
            SharedData.put(data),
            Store(directory),
            cluster,
            on_busy="wait",
            on_end=ended.append,
            program=look_around,
        )
        held = {node: held - before[node] for node, held in _held_bytes().items()}
        arrays, _ = data.to_arrays()
    print(
        json.dumps(
            {
                "slots": cluster.slots,
                "trials": [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))],
                "ended": len(ended),
                "crashed": crashed,
                "held_bytes": held,
                "data_bytes": sum(array.nbytes for array in arrays.values()),
                "checksum": data.checksum,
            }
        )
    )


if __name__ == "__main__":
    main()
