"""What the time of a training epoch goes to.

    python benchmarks/epoch_profile.py

Epochs of several networks, each in processes of its own: page faults and seconds with glibc's own settings
and with freed buffers kept, with one thread and with two; then the share of each kind of operation, and how
fast matrix products are by the libraries that torch has for them. The result is printed and written to the
section "Where an epoch goes" of RESULTS.md. It takes two minutes.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import tyro
from peers.client import KEPT_BYTES
from report import command, conditions, markdown_table, own_versions, paragraph, write_section
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from easrec.data.batches import training_batches
from easrec.data.interactions import load_interactions
from easrec.data.sequences import leave_one_out
from easrec.models.architecture import Architecture
from easrec.models.products import onednn_is_faster, product, sum_of_outer_products
from easrec.models.transformer import SequentialRecommender
from easrec.weight_steps import WeightSteps

KINDS = {
    "matrix products": (
        "mkldnn::_linear_pointwise",
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
        "aten::baddbmm",
    ),
    "fused attention": (
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "softmax": ("aten::_softmax", "aten::_softmax_backward_data"),
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
    torch.backends.mkldnn.enabled = settings["onednn"]
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


PRODUCTS = {
    "dense layer, 4,608 x 64 to 256": (4608, 64, 256),
    "dense layer, 4,608 x 64 to 64": (4608, 64, 64),
    "scores of a chunk of the loss, 155 x 64 to 1,682": (155, 64, 1682),
}


def product_speeds(threads: int) -> dict[str, list[float]]:
    """GFLOP/s of forward pass and weight gradient of each of `PRODUCTS`, by torch's own and as used."""
    torch.set_num_threads(threads)
    found = {}
    for name, (rows, inputs, outputs) in PRODUCTS.items():
        x, weight, grad = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
        speeds = []
        for function in (partial(product, x, weight), partial(sum_of_outer_products, grad, x)):
            for enabled in (False, True):
                torch.backends.mkldnn.enabled = enabled
                speeds.append(2e-9 * rows * inputs * outputs / _fastest_s(function))
        found[name] = speeds
    return found


def _fastest_s(function: Callable[[], Tensor], count: int = 100, rounds: int = 7) -> float:
    """Seconds of a call, the least of several means."""
    function()
    seconds = []
    with torch.no_grad():
        for _ in range(rounds):
            start_s = time.perf_counter()
            for _ in range(count):
                function()
            seconds.append((time.perf_counter() - start_s) / count)
    return min(seconds)


def ask(config: ProfileConfig, **settings: Any) -> dict[str, Any]:
    """`work`, or with `products` `product_speeds`, in a process of its own; `kept` keeps freed buffers."""
    environment = os.environ | {"OMP_NUM_THREADS": str(settings["threads"])}
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        environment.pop(name, None)
        if settings["kept"]:
            environment[name] = str(KEPT_BYTES)
    options = ["--data", config.data, "--epochs", str(config.epochs), "--worker", json.dumps(settings)]
    done = subprocess.run(
        [sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, env=environment, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


_WAYS = ((1, False, True), (1, True, True), (2, True, True), (1, True, False), (2, True, False))
"""Threads, whether freed buffers are kept, whether products are as used or torch's own: what is timed."""

_PRODUCTS_NOTE = f"""Matrix products in float32 by torch's own choice and as they are used
(`easrec.models.products`). On this processor oneDNN is {"" if onednn_is_faster() else "not "}taken for the
large ones."""


def run(config: ProfileConfig) -> None:
    """Measure, print and write."""
    rows = []
    for network in NETWORKS:
        for threads, kept, onednn in _WAYS:
            found = ask(config, network=network, threads=threads, kept=kept, onednn=onednn, profiled=False)
            wall_s, cpu_s, faults = found["epoch"]
            how = "kept" if kept else "glibc's own"
            products = "as used" if onednn else "torch's own"
            figures = [f"{wall_s:.2f}", f"{cpu_s:.2f}", f"{faults:,.0f}"]
            rows.append([network, how, products, str(threads), *figures])
    columns = ("", "freed buffers", "products", "threads", "s an epoch", "processor s", "page faults")
    shares = {
        network: ask(config, network=network, threads=1, kept=True, onednn=True, profiled=True)
        for network in NETWORKS
    }
    speeds = {threads: ask(config, products=True, threads=threads, kept=True) for threads in (1, 2)}
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
            paragraph(_PRODUCTS_NOTE),
            markdown_table(
                ("GFLOP/s", "threads", "forward, torch's", "used", "weight gradient, torch's", "used"),
                [
                    [name, str(threads), *(f"{speed:.0f}" for speed in of[name])]
                    for threads, of in speeds.items()
                    for name in PRODUCTS
                ],
            ),
        ]
    )
    print(body)
    write_section("Where an epoch goes", body)


def main() -> None:
    """Run what the command line describes."""
    config = tyro.cli(ProfileConfig)
    if config.worker:
        settings = json.loads(config.worker)
        products = settings.get("products", False)
        print(json.dumps(product_speeds(settings["threads"]) if products else work(settings, config)))
    else:
        run(config)


if __name__ == "__main__":
    main()
