"""One search without Ray: data -> warm supernet -> search -> derived network -> retraining -> figures.

The shortest way to read the whole system, and to try any of its settings:

python pipelines/search_and_retrain.py --output runs/one --search.tradeoff 0.3
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from easrec.errors import InputError
from easrec.evaluation.profile import ProfileConfig, profile_network
from easrec.evaluation.protocols import evaluate
from easrec.files import write_json
from easrec.micro_batches import MemoryExhaustedError
from easrec.models.architecture import CandidateSpace
from easrec.models.saving import save_network
from easrec.nas.resources import network_flops, network_parameters
from easrec.nas.search import SearchConfig, search
from easrec.retrain import RetrainConfig, retrain
from easrec.training import EpochReport, NonFiniteLossError
from sweeps.command_line import parse
from sweeps.data import load_data
from sweeps.data_options import DataOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(DataOptions):
    """Search, derive, retrain and evaluate once; every setting of the method is an option."""

    output: Path
    """Directory of the network and its figures; a run that was stopped goes on from there."""
    space: CandidateSpace = field(
        default_factory=lambda: CandidateSpace(64, 256, 4, 4, (0.0, 0.5, 0.75), (0.0, 0.5, 0.75))
    )
    """What the search chooses from."""
    search: SearchConfig = field(default_factory=lambda: SearchConfig(batch_size=32))
    """Settings of warm-up and search; their seed and max_length hold for the retraining too."""
    retrain: RetrainConfig = field(
        default_factory=lambda: RetrainConfig(batch_size=64, learning_rate=2e-3, max_epochs=100)
    )
    """Settings of the retraining."""
    init: Literal["transfer", "fresh"] = "transfer"
    """First weights of the retraining: of the supernet, or fresh ones."""
    transfer_from: Literal["warmup", "searched"] = "warmup"
    """Which supernet gives them: as it was after the warm-up, or at the end of the search (the paper's)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train and measure."""


def run(config: Config) -> None:
    """Run all stages; each line printed is one epoch or one result."""
    loaded = load_data(config)
    data = loaded.split
    print(loaded.described)
    found = search(
        data,
        config.space,
        config.search,
        device=config.device,
        checkpoint_dir=config.output / "search",
        on_epoch=show,
    )
    architecture = found.architecture
    print(f"derived {architecture.architecture_id} in {found.search_s:.0f} s")

    supernet = found.warm_supernet if config.transfer_from == "warmup" else found.supernet
    retrained = retrain(
        architecture,
        data,
        replace(config.retrain, seed=config.search.seed, max_length=config.search.max_length),
        initial=supernet.extract(architecture) if config.init == "transfer" else None,
        device=config.device,
        checkpoint_dir=config.output / "retrain",
        on_epoch=show,
    )
    save_network(retrained.model, config.output / "network")

    figures: dict[str, float] = {
        "flops": network_flops(architecture, config.search.max_length),
        "params": network_parameters(architecture, data.num_items, config.search.max_length),
        "search_s": found.search_s,
        "retrain_s": retrained.retrain_s,
        "best_epoch": retrained.best_epoch,
    }
    for split in ("valid", "test"):
        metrics = evaluate(
            retrained.model.scores, data, split, max_length=config.search.max_length, device=config.device
        )
        figures |= {f"{split}/{name}": value for name, value in metrics.items()}
    profile = profile_network(config.output / "network", data, ProfileConfig(), device=config.device)
    figures |= {name: getattr(profile, name) for name in ("latency_ms_p50", "latency_ms_p95", "inference_s")}
    write_json(config.output / "figures.json", {"architecture": architecture.to_dict(), "figures": figures})
    for name, value in figures.items():
        print(f"{name:32} {value:,.0f}" if value > 1000 else f"{name:32} {value:.4f}")
    print(f"network and figures: {config.output}")


def show(report: EpochReport) -> None:
    """Print an epoch: where the stage stands, the loss and what is chosen or measured."""
    shown = {"loss": "loss", "temperature": "tau", "candidate": "candidate", "num_layers": "layers"}
    parts = [f"{label} {report.metrics[name]:.4g}" for name, label in shown.items() if name in report.metrics]
    parts += [f"{name} {value:.4f}" for name, value in report.metrics.items() if name.endswith("ndcg_at_10")]
    left_s = (report.num_epochs - report.epoch) * report.duration_s
    print(
        f"{report.stage} {report.epoch}/{report.num_epochs}: {', '.join(parts)}; {report.duration_s:.1f} s, "
        f"at most {left_s / 60:.1f} min left",
        flush=True,
    )


def main() -> int:
    """Run what the command line describes; returns the exit status."""
    name = "search_and_retrain.py"
    try:
        config = parse(
            Config,
            name,
            elsewhere={
                "--ray-address": "this program runs without Ray, here; on a cluster lambda_sweep.py "
                "--tradeoffs LAMBDA --ray-address HOST:PORT makes the same search"
            },
        )
        config.check()
        run(config)
    except (InputError, NonFiniteLossError, MemoryExhaustedError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last epoch", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
