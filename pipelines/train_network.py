"""Train one architecture by itself, without a search: the baseline that a sweep is compared with.

python pipelines/train_network.py --num-layers 4 --seeds 3 --output runs/full-size
"""

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from easrec.errors import DiskFullError, InputError
from sweeps.command_line import parse
from sweeps.data_options import DataOptions

if TYPE_CHECKING:
    from easrec.data.sequences import SplitData
    from easrec.models.architecture import Architecture

# torch is imported where it is first needed: it takes seconds, and --help does not need it.


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(DataOptions):
    """Train an architecture to early stopping, from fresh weights, and evaluate it under every protocol."""

    output: Path
    """Directory for the networks and figures of all seeds; a run that was stopped goes on from there."""
    hidden_size: int = 64
    """Hidden size (dimensions)."""
    inner_size: int = 256
    """Inner size of the feed-forward networks (dimensions)."""
    num_layers: int = 4
    """Layers."""
    num_heads: int = 4
    """Attention heads."""
    attention: Literal["linear", "linear_bidirectional", "softmax"] = "linear"
    """Kind of attention."""
    gate_layers: Literal[0, 1, 2] = 2
    """Dense layers of each data-aware gate."""
    max_length: int = 50
    """Positions of a sequence (items)."""
    epochs: int = 60
    """The most epochs."""
    patience: int = 10
    """Epochs without a better validation NDCG@10 after which training ends."""
    batch_size: int = 64
    """Sequences in a batch."""
    learning_rate: float = 2e-3
    """Adam's step size."""
    seeds: int = 1
    """How many seeds."""
    seed: int = 0
    """The first seed; the others follow it."""
    threads: int = 1
    """CPU threads."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""


def run(config: TrainConfig) -> int:
    """Train and evaluate; prints a line per epoch, then the figures of each seed and their mean.

    Returns the exit status: 1, after a sentence, when a training failed in a way that would repeat itself.
    """
    import torch

    from easrec.micro_batches import MemoryExhaustedError, memory_explained
    from easrec.models.architecture import Architecture
    from easrec.nas.resources import network_flops
    from easrec.training import NonFiniteLossError
    from sweeps.data import load_data

    torch.set_num_threads(config.threads)
    architecture = Architecture(
        hidden_size=config.hidden_size,
        inner_size=config.inner_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        attention=config.attention,
        gate_layers=config.gate_layers,
    )
    loaded = load_data(config)
    print(loaded.described)
    print(f"{architecture.architecture_id}: {network_flops(architecture, config.max_length):,} FLOPs")
    sizes = (
        f"batches of {config.batch_size} sequences of up to {config.max_length} positions, "
        f"{config.hidden_size} hidden dimensions, {loaded.split.num_items:,} items"
    )
    figures: list[dict[str, float]] = []
    for seed in range(config.seed, config.seed + config.seeds):
        try:
            with memory_explained("the training", sizes):
                figures.append(train_seed(config, architecture, loaded.split, seed))
        except (NonFiniteLossError, MemoryExhaustedError) as error:
            print(f"train_network.py: seed {seed}: {error}", file=sys.stderr)
            return 1
    for name in figures[0]:
        values = [metrics[name] for metrics in figures]
        listed = " ".join(f"{value:.4f}" for value in values)
        print(f"{name:32} mean {statistics.fmean(values):.4f}   by seed {listed}")
    return 0


def train_seed(
    config: TrainConfig, architecture: "Architecture", data: "SplitData", seed: int
) -> dict[str, float]:
    """Train and evaluate one seed, or read what an earlier call left of it; returns its figures.

    Raises:
        NonFiniteLossError: the loss, or a weight, became NaN or infinite.
        MemoryExhaustedError: not even one sequence at a time fits into memory.
    """
    import torch

    from easrec.evaluation.protocols import evaluate
    from easrec.files import write_json
    from easrec.models.saving import save_network
    from easrec.retrain import RetrainConfig, retrain
    from easrec.training import EpochReport

    start = time.monotonic()

    def show(report: EpochReport) -> None:
        value = next(v for k, v in report.metrics.items() if k.endswith("ndcg_at_10"))
        minutes = (time.monotonic() - start) / 60
        left = (report.num_epochs - report.epoch) * report.duration_s / 60
        print(
            f"seed {seed} epoch {report.epoch}/{report.num_epochs} loss {report.metrics['loss']:.4f} "
            f"valid NDCG@10 {value:.4f}; {report.duration_s:.1f} s an epoch, {minutes:.1f} min so far, "
            f"at most {left:.1f} min left",
            flush=True,
        )

    settings = RetrainConfig(
        seed=seed,
        max_length=config.max_length,
        max_epochs=config.epochs,
        patience=config.patience,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
    )
    directory = config.output / f"seed{seed}"
    result = retrain(
        architecture,
        data,
        settings,
        device=config.device,
        checkpoint_dir=directory / "checkpoints",
        on_epoch=show,
    )
    save_network(result.model, directory / "network")
    metrics = {"best_epoch": float(result.best_epoch), "retrain_s": result.retrain_s}
    with torch.inference_mode():
        for split in ("valid", "test"):
            found = evaluate(
                result.model.scores, data, split, max_length=config.max_length, device=config.device
            )
            metrics |= {f"{split}/{name}": value for name, value in found.items()}
    write_json(directory / "metrics.json", metrics)
    return metrics


def main() -> int:
    """Run what the command line describes; returns the exit status."""
    try:
        config = parse(
            TrainConfig,
            "train_network.py",
            elsewhere={
                "--ray-address": "this program runs without Ray, here; networks are trained on a cluster by "
                "lambda_sweep.py --ray-address HOST:PORT, which derives them"
            },
        )
        config.check()
        return run(config)
    except InputError as error:
        print(f"train_network.py: {error}", file=sys.stderr)
        return 2
    except DiskFullError as error:
        print(f"train_network.py: {error}; then the same command goes on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last epoch", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
