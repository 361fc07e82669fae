"""What the precision of the item table changes: time against the bound of the memory, and accuracy.

    python benchmarks/item_tables.py

Scoring one user reads the whole table once, so its bytes over the bandwidth of the memory bound the time
from below. The bandwidth is that of reading an array of the same size, the fastest time of several ways.
Tables are timed in turn, round after round, so that a busy moment falls on all of them alike; embeddings are
drawn at random there. Accuracy is that of a network trained on a real data set, on the test questions.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from easrec.data.interactions import load_interactions
from easrec.data.items import Items
from easrec.data.sequences import SplitData, leave_one_out
from easrec.evaluation.protocols import evaluate, selection_protocol
from easrec.models.architecture import Architecture
from easrec.models.transformer import SequentialRecommender
from easrec.retrain import RetrainConfig, retrain
from easrec.serving.best_items import best_items
from easrec.serving.item_table import ItemTable, Precision, item_table
from easrec.serving.recommender import Recommender

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
ARCHITECTURES = (Architecture(32, 128, 1, 4), Architecture(64, 256, 2, 4))


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Measure item tables."""

    items: int = 165_000
    """Items of the table that is timed (V)."""
    hidden_size: int = 64
    """Values of an item's embedding (D)."""
    users: tuple[int, ...] = (1, 16)
    """Users scored at once."""
    threads: tuple[int, ...] = (1, 2)
    """CPU threads."""
    rounds: int = 200
    """How often each table is timed for one user, after ten rounds that are not; less often for more."""
    data: str = "ml-100k"
    """Data set of the accuracy, by name or path."""
    epochs: int = 25
    """The most epochs of training."""
    checkpoints: Path | None = None
    """Where trainings leave their state, so that a second run does not train again."""


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Times of each in seconds, (rounds,)."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 10):
        for name, work in works.items():
            duration = seconds(work)
            if turn >= 10:
                found[name].append(duration)
    return {name: np.array(values) for name, values in found.items()}


def readers(num_bytes: int) -> dict[str, Callable[[], object]]:
    """Ways to read an array of so many bytes."""
    array = torch.rand(num_bytes // 4)
    return {"sum": array.sum, "dot": lambda: torch.dot(array, array), "largest": array.amax}


def time_tables(config: Config, threads: int, users: int) -> Table:
    """Medians and quantiles of scoring all items, and the bound."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(config.items + 1, config.hidden_size, generator=generator) * 0.1
    outputs = torch.randn(users, config.hidden_size, generator=generator)
    tables: dict[str, ItemTable] = {name: item_table(embedding, name) for name in PRECISIONS}
    works: dict[str, Callable[[], object]] = {}
    for name, table in tables.items():
        works[name] = lambda table=table: table.scores(outputs)
        works[f"{name} best"] = lambda table=table: best_items(table.scores(outputs), 10)
        for way, read in readers(table.num_bytes).items():
            works[f"{name} {way}"] = read
    rounds = max(20, config.rounds // users)
    with torch.inference_mode():
        times = {name: values * 1000 for name, values in in_turn(works, rounds).items()}
    result = Table(
        title=f"{config.items:,} items x {config.hidden_size}, {users} user(s), {threads} thread(s), "
        f"{rounds} rounds"
    )
    for column in (
        "table", "MiB", "GB/s read", "bound ms", "scores: median ms", "p95", "p99", "median / bound",
        "float32 / this", "with top 10: median ms",
    ):  # fmt: skip
        result.add_column(column, justify="left" if column == "table" else "right")
    for name, table in tables.items():
        bound = min(float(times[f"{name} {way}"].min()) for way in readers(4))
        median, p95, p99 = np.quantile(times[name], (0.5, 0.95, 0.99))
        result.add_row(
            name,
            f"{table.num_bytes / 2**20:.1f}",
            f"{table.num_bytes / bound / 1e6:.0f}",
            f"{bound:.3f}",
            f"{median:.3f}",
            f"{p95:.3f}",
            f"{p99:.3f}",
            f"{median / bound:.2f}",
            f"{np.median(times['float32']) / median:.2f}",
            f"{np.median(times[f'{name} best']):.3f}",
        )
    return result


def accuracy(model: SequentialRecommender, data: SplitData, items: Items) -> Table:
    """NDCG@10 of the test questions, and how many lists of ten differ from those of float32."""
    protocol = selection_protocol(data)
    index = np.arange(len(data.test.rows))
    starts, ends = data.starts[data.test.rows], data.test.positions
    histories = [
        items.own_ids[data.items[start:end]].tolist() for start, end in zip(starts, ends, strict=True)
    ]
    result = Table(title=f"{data.name}, {model.architecture.architecture_id}, {len(index)} test questions")
    for column in ("table", f"NDCG@10 ({protocol})", "change", "other ten items", "other order too"):
        result.add_column(column, justify="left" if column == "table" else "right")
    reference, exact = 0.0, None
    for precision in PRECISIONS:
        table = item_table(model.item_embedding.weight, precision)

        def score(item_ids: torch.Tensor, _: torch.Tensor, table: ItemTable = table) -> torch.Tensor:
            return table.scores(model.last_outputs(item_ids))

        metrics = evaluate(score, data, "test", max_length=model.max_length, protocols=(protocol,))
        ndcg = metrics[f"{protocol}/ndcg_at_10"]
        found = Recommender(model, items, item_table=precision).recommend(histories).items
        if exact is None:
            reference, exact = ndcg, found
        pairs = list(zip(found, exact, strict=True))
        result.add_row(
            precision,
            f"{ndcg:.5f}",
            f"{ndcg - reference:+.5f}",
            f"{np.mean([set(one) != set(other) for one, other in pairs]):.2%}",
            f"{np.mean([one != other for one, other in pairs]):.2%}",
        )
    return result


def main(config: Config) -> None:
    """Measure and print."""
    console = Console(width=160)
    console.print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    for threads in config.threads:
        for users in config.users:
            console.print(time_tables(config, threads, users))
    torch.set_num_threads(1)
    interactions = load_interactions(config.data)
    data = leave_one_out(interactions)
    for architecture in ARCHITECTURES:
        settings = RetrainConfig(max_epochs=config.epochs, batch_size=64, learning_rate=2e-3)
        where = config.checkpoints and config.checkpoints / architecture.architecture_id
        model = retrain(architecture, data, settings, checkpoint_dir=where).model
        console.print(accuracy(model, data, Items.of(interactions, data)))


if __name__ == "__main__":
    main(tyro.cli(Config))
