"""How fast networks answer: ours, our full-size SASRec, ONNX Runtime and RecBole's SASRec, in one run.

    python benchmarks/serving.py [--output DIR]

All of them take turns, in processes of their own with the same threads and the same allocator settings, so
that a busy moment of the machine falls on all alike. First every answer is checked; no figure comes from a
wrong one. The result is printed and written to the section "Serving" of RESULTS.md. It takes eight
minutes on two cores.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from peers.client import ALLOCATOR
from peers.environment import recbole_python
from report import command, conditions, paragraph, write_section
from request_timing import time_requests
from script import run_script
from update_timing import time_updates

from easrec.data.interactions import load_interactions
from easrec.data.sequences import SplitData, leave_one_out
from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.models.saving import load_network
from easrec.models.transformer import SequentialRecommender

KNEE = Architecture(32, 128, 1, 4)
FULL_SIZE_LINEAR = Architecture(64, 256, 4, 4)
FULL_SIZE = Architecture(64, 256, 4, 4, "softmax", gate_layers=0)
RECBOLE_SIZE = Architecture(64, 256, 2, 2, "softmax", gate_layers=0)
MAX_LENGTH = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingConfig:
    """Time requests and updates of users' states."""

    output: Path | None = None
    """Directory of a sweep whose knee point is timed; without it, a network of the architecture that the
    default sweep's knee has, with fresh weights."""
    data: str = "ml-100k"
    """Data set by name or path."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of CPU threads, each timed by itself."""
    recbole: Path | None = None
    """Directory of RecBole's environment, see `benchmarks/peers/environment.py`."""
    pip_args: str = ""
    """Passed to pip when that environment is made: --pip-args="--extra-index-url URL"."""


def knee_network(config: ServingConfig, data: SplitData) -> tuple[SequentialRecommender, str]:
    """The network that is "ours", and where its weights are from."""
    if config.output is None:
        return SequentialRecommender(
            KNEE, data.num_items, MAX_LENGTH
        ).eval(), "'s size in the default sweep, with fresh weights"
    # Imported late: what reads sweeps is not needed without one.
    from sweeps.choice import Pick, choose
    from sweeps.source import SweepDirectory

    sweep = SweepDirectory(config.output)
    if sweep.facts.data_checksum != data.checksum:
        raise InputError(
            f"the sweep in {config.output} was made on other data than {config.data} (the smoke preset takes "
            "some of its users alone); name its data by --data, or another sweep by --output"
        )
    trained = sweep.trained(choose(sweep.frame, Pick("knee")).trial_id)
    return load_network(trained.network), " of a sweep, with its weights"


def run(config: ServingConfig) -> None:
    """Check, time, print and write."""
    recbole = recbole_python(config.recbole, config.pip_args)
    interactions = load_interactions(config.data)
    data = leave_one_out(interactions)
    torch.manual_seed(0)
    knee, origin = knee_network(config, data)
    networks = {"knee": knee}
    for name, architecture in (("SASRec, 4 x 64/256", FULL_SIZE), ("SASRec, 2 x 64/256", RECBOLE_SIZE)):
        networks[name] = SequentialRecommender(architecture, data.num_items, knee.max_length).eval()
    requests, versions = time_requests(networks, interactions, data, recbole, config.threads)
    updates = time_updates({"knee": knee.architecture, "full size": FULL_SIZE_LINEAR}, config.threads)
    introduction = f"""
        Data set {data.name}: {data.num_items:,} items, N = {knee.max_length}. `knee`: the knee
        point{origin} ({knee.architecture.architecture_id}). `SASRec`: softmax attention without gates in
        the same code, layers x hidden/inner size, fresh weights. Times in milliseconds; `times knee`: the
        median, over rounds in which all took a turn, of the ratio of medians."""
    made_with = conditions(command("serving.py", config), versions, ALLOCATOR)
    body = f"{made_with}\n\n{paragraph(introduction)}\n\n{requests}\n\n{updates}"
    print(body)
    write_section("Serving", body)


if __name__ == "__main__":
    sys.exit(run_script(run, ServingConfig))
