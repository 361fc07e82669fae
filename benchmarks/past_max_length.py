"""What a user's state should do past `max_length` items: accuracy of the candidates on long histories.

    python benchmarks/past_max_length.py

The positions of a network end at `max_length` = N, the events of a user do not. The reference is the full
forward pass over the last N items. Candidates that cost a constant time for each event:

- `windows m`: m states, each begun N / m events after the one before; the oldest answers, and the newest
  takes its place when it is full. It stands for the last N - N/m + 1 to N items, exactly.
- `clamp`: one state that goes on adding, all further items at position N - 1.
- `clamp and forget`: as `clamp`, but past N the sums shrink by the factor 1 - 1/N with every item.

Of every user the last ten items are held out: five ask validation questions, five test questions. The
choice is made by validation. Only questions with more than N items before them count. Intervals are those
of a bootstrap over users, of the difference from the reference.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from easrec.data.interactions import load_interactions
from easrec.data.sequences import Split, SplitData, Targets, describe_split, gather_spans, leave_one_out
from easrec.evaluation.ranking import ranks
from easrec.models.architecture import Architecture
from easrec.models.prediction import item_scores
from easrec.models.transformer import SequentialRecommender, TransformerLayer
from easrec.retrain import RetrainConfig, retrain

ARCHITECTURES = (Architecture(32, 128, 1, 4), Architecture(64, 256, 2, 4))
HELD_OUT = 5
SPLITS: tuple[Split, ...] = ("valid", "test")
SPANS = ((1, 2), (2, 4), (4, math.inf))
"""Lengths of histories in multiples of N, from (exclusive) and to, that figures are also given for."""
FRESH = 5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Compare what a state may do past max_length."""

    data: str = "ml-100k"
    """Data set by name or path."""
    max_length: int = 50
    """Positions of the networks (N)."""
    seeds: int = 3
    """Networks trained of each architecture."""
    epochs: int = 25
    """The most epochs of training."""
    batch_size: int = 64
    """Windows in a batch."""
    learning_rate: float = 2e-3
    """Adam's step size."""
    threads: int = 1
    """CPU threads."""
    checkpoints: Path | None = None
    """Where trainings leave their state, so that a second run does not train again."""


def hold_out(data: SplitData) -> SplitData:
    """The last ten items of each row as questions, five of each split; shorter rows ask nothing."""
    ends = np.append(data.starts[1:], len(data.items))
    rows = np.flatnonzero(ends - data.starts > 2 * HELD_OUT)
    train_ends = ends.copy()
    train_ends[rows] -= 2 * HELD_OUT
    steps = np.arange(HELD_OUT)
    valid = Targets(np.repeat(rows, HELD_OUT), (train_ends[rows, None] + steps).reshape(-1))
    test = Targets(valid.rows, valid.positions + HELD_OUT)
    split = replace(
        data,
        checksum=f"{data.checksum} last ten",
        train_ends=train_ends,
        valid=valid,
        test=test,
        statistics={},
    )
    return replace(split, statistics=describe_split(split))


def windows(count: int, events: npt.NDArray[np.int64], max_length: int) -> npt.NDArray[np.int64]:
    """How many of the last items the oldest of `count` overlapping windows holds after so many events."""
    stride = math.ceil(max_length / count)
    return np.where(
        events <= max_length, events, max_length - stride + 1 + (events - max_length - 1) % stride
    )


def cut_outputs(model: SequentialRecommender, data: SplitData, split: Split, count: int | None) -> Tensor:
    """Outputs (Q, D) after the items that the oldest of `count` windows holds; None: after the last N."""
    questions = data.targets(split)
    events = questions.positions - data.starts[questions.rows]
    limit = model.max_length
    lengths = np.minimum(events, limit) if count is None else windows(count, events, limit)
    outputs = []
    for index in np.array_split(np.arange(len(events)), max(1, len(events) // 256)):
        ends = questions.positions[index]
        item_ids = gather_spans(data.items, ends - lengths[index], ends, limit).astype(np.int64)
        outputs.append(model.last_outputs(torch.from_numpy(item_ids)))
    return torch.cat(outputs)


def endless_outputs(model: SequentialRecommender, data: SplitData, split: Split, keep: float) -> Tensor:
    """Outputs (Q, D) of one endless state per row whose sums keep the share `keep` with each item past N."""
    questions = data.targets(split)
    ends = np.append(data.starts[1:], len(data.items))
    rows = torch.from_numpy(
        gather_spans(data.items, data.starts, ends, int((ends - data.starts).max()))
    ).long()
    steps = list(_endless_steps(model, rows, keep))
    events = torch.from_numpy(questions.positions - data.starts[questions.rows])
    return torch.stack(steps)[events - 1, torch.from_numpy(questions.rows)]


def _endless_steps(model: SequentialRecommender, rows_UM: Tensor, keep: float) -> Iterator[Tensor]:
    """After each of M items, the outputs of all U rows (U, D); what comes after a row's end is noise."""
    heads = model.architecture.num_heads
    size = model.architecture.hidden_size // heads
    shape = (len(model.layers), len(rows_UM), heads, size)
    sums, squares = torch.zeros(*shape, size), torch.zeros(shape)
    for step in range(rows_UM.shape[1]):
        position = model.position_embedding.weight[min(step, model.max_length - 1)]
        embeddings = model.embedding_norm(model.item_embedding(rows_UM[:, step]) + position)
        if step >= model.max_length:
            sums.mul_(keep)
            squares.mul_(keep)
        x = embeddings
        for number, layer in enumerate(model.layers):
            assert isinstance(layer, TransformerLayer)
            q, k, v = layer.query_key_value(x).view(-1, 3, heads, size).unbind(1)
            k = F.elu(k)
            sums[number] += k[..., None] * v[:, :, None]
            squares[number] += k.square()
            q = F.normalize(F.elu(q), dim=-1) * squares[number].rsqrt()
            attended = (q[:, :, None] @ sums[number])[:, :, 0].flatten(1) / math.sqrt(size)
            x = layer._feed_forward(x, embeddings, attended)
        yield x


def ndcg(model: SequentialRecommender, data: SplitData, split: Split, outputs: Tensor) -> Floats:
    """NDCG@10 of each question, its history masked, (Q,)."""
    questions = data.targets(split)
    begins = data.starts[questions.rows]
    histories = gather_spans(
        data.items, begins, questions.positions, int((questions.positions - begins).max())
    )
    found = []
    for index in np.array_split(np.arange(len(begins)), max(1, len(begins) // 256)):
        scores = item_scores(outputs[index], model.item_embedding.weight)
        targets = torch.from_numpy(data.target_items(split)[index])
        found.append(ranks(scores, targets, excluded=torch.from_numpy(histories[index]).long()).numpy())
    rank = np.concatenate(found)
    return np.where(rank <= 10, 1 / np.log2(rank + 1.0), 0.0)


def interval(values: Floats, users: npt.NDArray[np.int64]) -> tuple[float, float]:
    """95 % interval of the mean of `values` under a bootstrap over users."""
    _, user = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(user, values), np.bincount(user)
    draws = np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))
    low, high = np.quantile(sums[draws].sum(1) / counts[draws].sum(1), (0.025, 0.975))
    return float(low), float(high)


def compare(models: list[SequentialRecommender], data: SplitData, split: Split) -> Table:
    """A row for each candidate: means over the networks and over questions of more than N items."""
    limit = models[0].max_length
    candidates: dict[str, Callable[[SequentialRecommender], Tensor]] = {
        "last N (reference)": lambda model: cut_outputs(model, data, split, None),
        "windows 1 (start afresh)": lambda model: cut_outputs(model, data, split, 1),
        "windows 2": lambda model: cut_outputs(model, data, split, 2),
        "windows 4": lambda model: cut_outputs(model, data, split, 4),
        "clamp": lambda model: endless_outputs(model, data, split, 1.0),
        "clamp and forget": lambda model: endless_outputs(model, data, split, 1 - 1 / limit),
    }
    questions = data.targets(split)
    events = questions.positions - data.starts[questions.rows]
    spans = {f"{low}N to {high}N": (events > low * limit) & (events <= high * limit) for low, high in SPANS}
    # Where a user who starts afresh has just done so.
    fresh = (events > limit) & ((events - 1) % limit < FRESH)
    chosen = {"all": events > limit, **spans, f"{FRESH} items or fewer since a multiple of N": fresh}
    table = Table(title=f"{split}: NDCG@10, and differences from the reference")
    table.add_column("past max_length")
    table.add_column("NDCG@10", justify="right")
    for name, mask in chosen.items():
        table.add_column(f"{name} ({mask.sum()} questions)", justify="right")
    reference: Floats | None = None
    for name, candidate in candidates.items():
        with torch.inference_mode():
            values = np.mean([ndcg(model, data, split, candidate(model)) for model in models], axis=0)
        reference = values if reference is None else reference
        cells = []
        for mask in chosen.values():
            gap = (values - reference)[mask]
            low, high = interval(gap, questions.rows[mask])
            cells.append("-" if values is reference else f"{gap.mean():+.4f} ({low:+.4f} to {high:+.4f})")
        table.add_row(name, f"{values[chosen['all']].mean():.4f}", *cells)
    return table


def main(config: Config) -> None:
    """Train and compare."""
    torch.set_num_threads(config.threads)
    data = hold_out(leave_one_out(load_interactions(config.data)))
    for architecture in ARCHITECTURES:
        models = []
        for seed in range(config.seeds):
            settings = RetrainConfig(
                seed=seed,
                max_length=config.max_length,
                max_epochs=config.epochs,
                batch_size=config.batch_size,
                learning_rate=config.learning_rate,
            )
            where = config.checkpoints and config.checkpoints / f"{architecture.architecture_id}-{seed}"
            models.append(retrain(architecture, data, settings, checkpoint_dir=where).model)
        console = Console(width=200)
        console.print(
            f"{data.name}, N = {config.max_length}, {architecture.architecture_id}, {config.seeds} seeds"
        )
        for split in SPLITS:
            console.print(compare(models, data, split))


if __name__ == "__main__":
    main(tyro.cli(Config))
