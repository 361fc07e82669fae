"""The least that Ray Tune takes to a first training step: a trainable that imports torch and makes one step.

python benchmarks/bare_tuner.py FILE    # writes when the step was done, in ms since 1970, to FILE
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# As the sweeps have it, so that both take the same way.
os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import ray
import torch
from ray import tune


def one_step(config: dict[str, Any]) -> None:
    """A step of Adam on one small layer."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.randn(32, 64)).square().mean().backward()
    optimizer.step()
    Path(config["file"]).write_text(str(time.time_ns() // 1_000_000))
    tune.report({"status": "finished"})


if __name__ == "__main__":
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as scratch:
        tune.Tuner(
            tune.with_resources(one_step, {"cpu": 1}),
            param_space={"file": str(Path(sys.argv[1]).absolute())},
            run_config=tune.RunConfig(storage_path=scratch, verbose=0),
        ).fit()
