"""How costs grow: with the history, the candidate's width, the search, and the catalogue.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --parts attention candidates

Each part is measured in processes of its own and written to a section of RESULTS.md. All parts take about
ten minutes on two idle cores.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from peers.client import ALLOCATOR, KEPT_BYTES
from report import command, conditions, markdown_table, own_versions, paragraph, verdict, write_section

from easrec.models.architecture import CandidateSpace
from easrec.nas.resources import layer_flops

Part = Literal["attention", "candidates", "search", "catalogue"]

HERE = Path(__file__).parent
POSITIONS = [256, 512, 1024, 2048, 4096]
ITEMS, BATCH, LENGTH, USERS = 165_000, 1024, 100, 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingConfig:
    """Measure how costs grow."""

    parts: tuple[Part, ...] = ("attention", "candidates", "search", "catalogue")
    """Which parts."""
    threads: int = 2
    """CPU threads."""
    rounds: int = 20
    """How often each thing is timed in the parts attention and candidates."""
    epochs: int = 5
    """Search epochs that are timed."""
    data: str = "ml-100k"
    """Data set of the part search, by name."""


def measure(config: ScalingConfig, do: str, **settings: Any) -> dict[str, Any]:
    """What `scaling_worker.py` measures, in a process of its own.

    Raises:
        RuntimeError: it failed; its message is on standard error.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": str(config.threads),
        "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
        "MALLOC_MMAP_THRESHOLD_": str(KEPT_BYTES),
    }
    request = json.dumps({"do": do, "threads": config.threads, **settings})
    done = subprocess.run(
        [sys.executable, HERE / "scaling_worker.py", request],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{do} failed with status {done.returncode}; its message is above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def exponent(sizes: list[int], values: list[float]) -> float:
    """The power by which values grow with sizes: the slope of the least-squares line through the logarithms.

    >>> round(exponent([1, 2, 4], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def attention_part(config: ScalingConfig) -> str:
    """Time and memory of attention against the length of the history."""
    rows, verdicts = [], []
    for kind in ("linear", "softmax, plain", "softmax, fused"):
        found = measure(
            config, "attention", kind=kind, heads=4, size=16, positions=POSITIONS, rounds=config.rounds
        )
        medians = [statistics.median(values) for values in found["seconds"]]
        by_time, by_memory = exponent(POSITIONS, medians), exponent(POSITIONS, found["mib"])
        rows.append([f"{kind}: ms", *(f"{value * 1000:.2f}" for value in medians), f"{by_time:.2f}"])
        rows.append([f"{kind}: peak MiB", *(f"{value:.1f}" for value in found["mib"]), f"{by_memory:.2f}"])
        if kind == "linear":
            verdicts = [
                verdict(f"linear attention, {what}", value, 1.15, "as exponent", most=True)
                for what, value in (("time", by_time), ("memory", by_memory))
            ]
    notes = """One sequence, 4 heads of 16 dimensions, forward and backward pass of the operation alone.
    `softmax, plain` holds the matrix of all pairs (torch's MATH backend), `softmax, fused` is torch's fused
    kernel for CPUs, whose work grows as fast and whose memory does not. Memory: peak resident memory above
    that before the pass."""
    table = markdown_table(("N", *(f"{n:,}" for n in POSITIONS), "exponent"), rows)
    return "\n\n".join([paragraph(notes), table, "\n".join(verdicts)])


def candidates_part(config: ScalingConfig) -> str:
    """Time of a layer against the candidate's width."""
    rows, worst = [], {"training": 0.0, "inference": 0.0}
    for hidden, shares, positions, windows in (
        (64, (0, 0.25, 0.5), 50, 128),
        (64, (0, 0.5, 0.75), 50, 128),
        (128, (0, 0.25, 0.5), 200, 32),
        (128, (0, 0.5, 0.75), 200, 32),
    ):
        space = CandidateSpace(hidden, 256, 1, 4, shares, shares)
        found = measure(
            config,
            "candidates",
            space=space.to_dict(),
            windows=windows,
            positions=positions,
            rounds=config.rounds,
        )
        for k in range(1, len(space)):
            flops = layer_flops(space.architecture(k, 1), positions) / layer_flops(
                space.architecture(0, 1), positions
            )
            width = space.sizes(k)[0] / hidden
            ratios = {
                name: statistics.median(
                    own / first for own, first in zip(found[name][k], found[name][0], strict=True)
                )
                for name in worst
            }
            for name, ratio in ratios.items():
                worst[name] = max(worst[name], ratio / max(flops, width))
            sizes = f"{space.sizes(k)[0]}/{space.sizes(k)[1]} of {hidden}/256, {windows} x {positions}"
            rows.append([sizes, f"{flops:.2f}", f"{width:.2f}", *(f"{ratios[name]:.2f}" for name in worst)])
    verdicts = [
        verdict(f"{name}, largest of time / larger of FLOPs and width", value, 1.25, "times", most=True)
        for name, value in worst.items()
    ]
    notes = """A layer with linear attention and gates on a batch of full windows (windows x positions);
    `training` is the forward and backward pass. All figures are shares of the unmasked candidate's,
    medians over rounds in which all took a turn. Before each timed pass comes one of the same layer that is
    not timed: in a network a layer follows others of its own width."""
    columns = ("candidate (hidden/inner)", "FLOPs", "width", "training time", "inference time")
    return "\n\n".join([paragraph(notes), markdown_table(columns, rows), "\n".join(verdicts)])


def search_part(config: ScalingConfig) -> str:
    """An epoch of search against an epoch of training."""
    rows, verdicts = [], []
    for hidden, max_length, batch_size in ((64, 50, 128), (128, 200, 32)):
        space = CandidateSpace(hidden, 256, 4, 4, (0, 0.25, 0.5), (0, 0.25, 0.5))
        found = measure(
            config,
            "search_epochs",
            data=config.data,
            space=space.to_dict(),
            max_length=max_length,
            batch_size=batch_size,
            epochs=config.epochs,
        )
        ratios = [
            trained / searched for trained, searched in zip(found["training"], found["search"], strict=True)
        ]
        where = f"hidden {hidden}, N = {max_length}, {batch_size} windows"
        medians = [f"{statistics.median(found[name]):.0f}" for name in ("training", "search")]
        ratio = statistics.median(ratios)
        rows.append(
            [where, *medians, f"{ratio:.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}", str(len(ratios))]
        )
        verdicts.append(
            verdict(f"search epoch against training epoch, {where}", ratio, 3, "times", most=True)
        )
    notes = """Supernet of 4 layers, K = 3 at 0, 25 and 50 %, gates, a controller step after every second
    weight step, no warm-up before; each search epoch is followed by a training epoch of the full-size
    network on equal batches. By FLOPs alone the ratio would be about 2.4. Sequences are training windows;
    validation is not in the time."""
    columns = ("", "training: sequences/s", "search: sequences/s", "times longer", "least to most", "epochs")
    return "\n\n".join([paragraph(notes), markdown_table(columns, rows), "\n".join(verdicts)])


def catalogue_part(config: ScalingConfig) -> str:
    """Training steps and ranking with very many items."""
    cases: list[tuple[str, dict[str, Any]]] = [
        ("network, exact loss", {"network": "plain", "loss": "full", "micro_batch_size": None}),
        ("network, exact loss, 128 at once", {"network": "plain", "loss": "full", "micro_batch_size": 128}),
        ("network, sampled loss", {"network": "plain", "loss": "sampled", "micro_batch_size": None}),
        (
            "supernet, exact loss, 128 at once",
            {"network": "supernet", "loss": "full", "micro_batch_size": 128},
        ),
        (
            "supernet, sampled loss, 128 at once",
            {"network": "supernet", "loss": "sampled", "micro_batch_size": 128},
        ),
    ]
    rows, verdicts = [], []
    for name, settings in cases:
        print(f"{name} ...", file=sys.stderr)
        found = measure(config, "large_step", items=ITEMS, batch_size=BATCH, max_length=LENGTH, **settings)
        rows.append(
            [name, f"{found['seconds']:.1f}", *(f"{found[k] / 1024:.2f}" for k in ("mib", "added_mib"))]
        )
        verdicts.append(verdict(f"{name}: peak memory", found["mib"] / 1024, 5.59, "GiB", most=True))
    found = measure(config, "large_ranking", items=ITEMS, users=USERS, max_length=LENGTH)
    rows.append(
        [
            f"ranking {USERS:,} users against all items",
            f"{found['seconds']:.1f}",
            *(f"{found[k] / 1024:.2f}" for k in ("mib", "added_mib")),
        ]
    )
    notes = f"""{ITEMS:,} made-up items, a batch of {BATCH:,} full windows of {LENGTH}, hidden 64, inner 256:
    a network of 2 layers, and a supernet of 4 layers and K = 3, linear attention with gates. One training
    step with its optimiser. Memory is the peak of the process, and what the step added to it; 6 GB are
    5.59 GiB. The exact loss compares {BATCH * LENGTH:,} targets with all items, which takes
    {BATCH * LENGTH * ITEMS * 64 * 6 / 1e12:.1f} TFLOP of the step."""
    table = markdown_table(("", "seconds", "peak GiB", "of it the step's GiB"), rows)
    return "\n\n".join([paragraph(notes), table, "\n".join(verdicts)])


PARTS = {
    "attention": ("Long histories", attention_part),
    "candidates": ("Candidates", candidates_part),
    "search": ("Search and training", search_part),
    "catalogue": ("Large catalogues", catalogue_part),
}


def main() -> None:
    """Measure, print and write."""
    config = tyro.cli(ScalingConfig)
    for part in config.parts:
        title, measured = PARTS[part]
        print(f"measuring {part}", file=sys.stderr)
        text = measured(config)
        made_with = conditions(
            command("scaling.py", dataclasses.replace(config, parts=(part,))),
            own_versions("easrec", "torch"),
            f"{config.threads} thread(s); {ALLOCATOR}",
        )
        body = f"{made_with}\n\n{text}"
        print(f"## {title}\n\n{body}\n")
        write_section(title, body)


if __name__ == "__main__":
    main()
