"""What a step of each stage costs on this machine: `make bench`.

Steps of all stages are timed in turn, round after round, so that a busy moment falls on all of them
alike; the
table shows medians and quartiles. Times of one run compare with each other, not with another machine's.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from easrec.data.batches import Batch, training_batches, validation_batches
from easrec.data.interactions import load_interactions
from easrec.data.sequences import SplitData, leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.evaluation.protocols import evaluate
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.transformer import SequentialRecommender
from easrec.nas.supernet import Supernet

Step = Callable[[Batch], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkConfig:
    """Time a step of each stage, on the sizes of the `quick` preset."""

    data: str = "ml-100k"
    """Data set by name or path; `synthetic` for made-up data of 1,000 users."""
    threads: int = 1
    """CPU threads."""
    rounds: int = 15
    """How often each step is timed, after two rounds that are not."""


def _training_step(module: torch.nn.Module, loss: Callable[[Batch], torch.Tensor]) -> Step:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()

    return step


def _steps(data: SplitData, space: CandidateSpace, max_length: int) -> dict[str, Step]:
    supernet = Supernet(space, data.num_items, max_length)
    width = torch.full((len(space),), 1 / len(space))
    depth = torch.full((space.num_layers,), 1 / space.num_layers)

    def controller_step(_: Batch) -> None:
        supernet.eval()
        sampled = supernet.controllers.sample(1.0)
        loss = supernet.loss(validation, *sampled)
        torch.autograd.grad(loss, list(supernet.controllers.parameters()))
        supernet.train()

    validation = next(validation_batches(data, max_length, 128, seed=0, epoch=0))
    steps: dict[str, Step] = {
        "supernet, weights": _training_step(supernet, lambda batch: supernet.loss(batch, width, depth)),
        "supernet, controllers": controller_step,
    }
    for candidate in range(len(space)):
        for num_layers in (1, space.num_layers):
            architecture = space.architecture(candidate, num_layers)
            network = SequentialRecommender(architecture, data.num_items, max_length)
            steps[f"network {architecture.architecture_id}"] = _training_step(network, network.loss)
    plain = Architecture(64, 256, 2, 4, "softmax", gate_layers=0)
    sasrec = SequentialRecommender(plain, data.num_items, max_length)
    steps[f"network {plain.architecture_id}"] = _training_step(sasrec, sasrec.loss)
    return steps


def main(config: BenchmarkConfig) -> None:
    """Time and print."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    interactions = (
        synthetic_interactions(1000, 1700, 100, seed=0)
        if config.data == "synthetic"
        else load_interactions(config.data)
    )
    data = leave_one_out(interactions)
    max_length = 50
    space = CandidateSpace(64, 256, 4, 4, (0, 0.5, 0.75), (0, 0.5, 0.75))
    batches = list(training_batches(data, max_length, 128, form="windows", seed=0, epoch=1))
    # The last batch of an epoch may be small.
    full = batches[:-1] or batches
    steps = _steps(data, space, max_length)
    durations: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(config.rounds + 2):
        batch = full[turn % len(full)]
        for name, step in steps.items():
            start = time.perf_counter()
            step(batch)
            if turn >= 2:
                durations[name].append(time.perf_counter() - start)
    base = statistics.median(durations["supernet, weights"])
    table = Table(
        title=f"{data.name}: {len(batches)} steps an epoch, 128 windows of {max_length}, "
        f"{config.threads} thread(s), torch {torch.__version__}"
    )
    for column in ("one step of", "median ms", "quartiles ms", "share of a supernet step"):
        table.add_column(column, justify="left" if column == "one step of" else "right")
    for name, values in durations.items():
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)) * 1000
        table.add_row(name, f"{middle:.0f}", f"{low:.0f}-{high:.0f}", f"{middle / 1000 / base:.2f}")
    Console().print(table)
    network = SequentialRecommender(space.architecture(0, 2), data.num_items, max_length).eval()
    start = time.perf_counter()
    with torch.inference_mode():
        evaluate(network.scores, data, "valid", max_length=max_length)
    Console().print(
        f"all protocols for {data.num_users} users, {network.architecture.architecture_id}: "
        f"{time.perf_counter() - start:.2f} s"
    )


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
