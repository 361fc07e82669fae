"""What the time of a training epoch goes to.

    python benchmarks/epoch_profile.py

Epochs of several networks, each in processes of its own: page faults and seconds with glibc's own settings
and with freed buffers kept, with one thread and with two; then the share of each kind of operation. The
result is printed and written to the section "Where an epoch goes" of RESULTS.md. It takes two minutes.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from peers.client import KEPT_BYTES
from report import command, conditions, markdown_table, own_versions, paragraph, write_section
from torch.profiler import ProfilerActivity, profile

from easrec.data.batches import training_batches
from easrec.data.interactions import load_interactions
from easrec.data.sequences import leave_one_out
from easrec.models.architecture import Architecture
from easrec.models.transformer import SequentialRecommender
from easrec.weight_steps import WeightSteps

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm"),
    "fused attention": (
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "softmax of the loss": ("aten::_softmax",),
    "copies and gathers": (
        "aten::copy_",
        "aten::cat",
        "aten::fill_",
        "aten::index_copy",
        "aten::index_select",
        "aten::embedding_dense_backward",
    ),
    "dropout's noise": ("aten::random_",),
    "optimiser": ("aten::_fused_adam_",),
}
LOSS = "_LinearCrossEntropy"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileConfig:
    """Profile training epochs."""

    data: str = "ml-100k"
    """Data set by name."""
    epochs: int = 3
    """Epochs that are timed, after one that is not; the fastest counts."""
    worker: str = ""
    """Used by the script itself: what a process of its own is to measure."""


NETWORKS = {
    "N = 50, 2 layers, softmax": (50, Architecture(64, 256, 2, 2, "softmax", gate_layers=0)),
    "N = 50, 2 layers, linear, gates": (50, Architecture(64, 256, 2, 2)),
    "N = 200, 4 layers, softmax": (200, Architecture(64, 256, 4, 2, "softmax", gate_layers=0)),
    "N = 200, 4 layers, linear, gates": (200, Architecture(64, 256, 4, 2)),
}


def work(settings: dict[str, Any], config: ProfileConfig) -> dict[str, Any]:
    """Seconds, processor seconds and page faults of an epoch; with `profiled` the share of each kind."""
    torch.set_num_threads(settings["threads"])
    max_length, architecture = NETWORKS[settings["network"]]
    data = leave_one_out(load_interactions(config.data))
    torch.manual_seed(0)
    model = SequentialRecommender(architecture, data.num_items, max_length)
    steps = WeightSteps(model.parameters(), model.item_embedding, learning_rate=1e-3)
    loading_s = 0.0

    def epoch(number: int) -> None:
        nonlocal loading_s
        batches = training_batches(data, max_length, 128, form="windows", seed=0, epoch=number)
        start_s = time.perf_counter()
        for step, batch in enumerate(batches, 1):
            loading_s += time.perf_counter() - start_s
            steps.step(batch, model.loss, stage="retrain", epoch=number, step=step)
            start_s = time.perf_counter()

    epoch(0)
    timed = []
    for number in range(1, config.epochs + 1):
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        epoch(number)
        timed.append(
            (
                time.perf_counter() - wall_s,
                time.process_time() - cpu_s,
                resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults,
            )
        )
    found: dict[str, Any] = {"epoch": min(timed)}
    if settings["profiled"]:
        loading_s = 0.0
        start_s = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            epoch(config.epochs + 1)
            wall_us = (time.perf_counter() - start_s) * 1e6
        averages = profiler.key_averages()
        kinds = {name: kind for kind, names in KINDS.items() for name in names}
        shares: Counter[str] = Counter()
        for average in averages:
            shares[kinds.get(average.key, "element by element")] += average.self_cpu_time_total / wall_us
        shares["Python, unprofiled"] = 1 - shares.total()
        found["shares"] = dict(shares)
        found["loss"] = sum(a.cpu_time_total for a in averages if a.key == LOSS) / wall_us
        found["loading"] = loading_s * 1e6 / wall_us
    return found


def ask(config: ProfileConfig, network: str, *, threads: int, kept: bool, profiled: bool) -> dict[str, Any]:
    """`work` in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        environment.pop(name, None)
        if kept:
            environment[name] = str(KEPT_BYTES)
    settings = json.dumps({"network": network, "threads": threads, "profiled": profiled})
    options = ["--data", config.data, "--epochs", str(config.epochs), "--worker", settings]
    done = subprocess.run(
        [sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, env=environment, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(config: ProfileConfig) -> None:
    """Measure, print and write."""
    rows = []
    for network in NETWORKS:
        for threads, kept in ((1, False), (1, True), (2, True)):
            found = ask(config, network, threads=threads, kept=kept, profiled=False)
            wall_s, cpu_s, faults = found["epoch"]
            how = "kept" if kept else "glibc's own"
            rows.append([network, how, str(threads), f"{wall_s:.2f}", f"{cpu_s:.2f}", f"{faults:,.0f}"])
    columns = ("", "freed buffers", "threads", "s an epoch", "processor s", "page faults")
    shares = {network: ask(config, network, threads=1, kept=True, profiled=True) for network in NETWORKS}
    kinds = [*KINDS, "element by element", "Python, unprofiled"]
    table = [
        *([kind, *(f"{of['shares'].get(kind, 0):.1%}" for of in shares.values())] for kind in kinds),
        ["of it all: loss (forward, with its gradients)", *(f"{of['loss']:.1%}" for of in shares.values())],
        ["of it all: loading of batches", *(f"{of['loading']:.1%}" for of in shares.values())],
    ]
    made_with = conditions(
        command("epoch_profile.py", config),
        own_versions("easrec", "torch"),
        "freed buffers as the table says",
    )
    notes = f"""Training alone (128 windows a batch), the fastest of {config.epochs} epochs. Shares are of one
    thread's time with freed buffers kept, by torch's profiler."""
    body = "\n\n".join(
        [
            made_with,
            paragraph(notes),
            markdown_table(columns, rows),
            markdown_table(("share of an epoch", *shares), table),
        ]
    )
    print(body)
    write_section("Where an epoch goes", body)


def main() -> None:
    """Run what the command line describes."""
    config = tyro.cli(ProfileConfig)
    if config.worker:
        print(json.dumps(work(json.loads(config.worker), config)))
    else:
        run(config)


if __name__ == "__main__":
    main()
