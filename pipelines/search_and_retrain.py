"""One search without Ray: data -> warm supernet -> search -> derived network -> retraining -> figures.

The shortest way to read the whole system, and to try any of its settings:

python pipelines/search_and_retrain.py --output runs/one --search.tradeoff 0.3
"""

import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from easrec.errors import DiskFullError, InputError
from easrec.evaluation.profile import ProfileConfig, profile_network
from easrec.evaluation.protocols import evaluate
from easrec.files import write_json
from easrec.micro_batches import MemoryExhaustedError, memory_explained
from easrec.models.architecture import CandidateSpace
from easrec.models.saving import save_network
from easrec.nas.resources import network_flops, network_parameters
from easrec.nas.search import SearchConfig, search
from easrec.retrain import RetrainConfig, retrain
from easrec.training import EpochReport, NonFiniteLossError
from sweeps.command_line import parse
from sweeps.data import SweepData, load_data
from sweeps.data_options import DataOptions, option


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
    from_run: str | None = None
    """Instead of settings: id of the MLflow run of a finished trial. It is run again with its own settings,
    and compared with what was recorded."""
    tracking_uri: str | None = None
    """Of --from-run: the MLflow store that has the run. Left out: MLFLOW_TRACKING_URI."""


def repeat(config: Config) -> bool:
    """Run a recorded trial again; returns whether all computed figures are the recorded ones."""
    for setting in fields(config):
        given = setting.name not in ("from_run", "tracking_uri", "output", "data")
        if given and getattr(config, setting.name) != getattr(Config(output=config.output), setting.name):
            raise InputError(
                f"{option(setting.name)} has no place beside --from-run, which takes settings from the run"
            )
    # Imported late: nothing else here needs MLflow.
    import torch

    from sweeps.recorded_trial import comparison_text, differences, read_trial, tracking_store

    trial = read_trial(str(config.from_run), tracking_store(config.tracking_uri), log=config.data)
    preset = trial.preset
    # Sums in another order give other last digits.
    torch.set_num_threads(trial.config.cpus_per_trial)
    figures = run(
        replace(
            config,
            space=preset.space,
            search=preset.search,
            retrain=preset.retrain,
            init="fresh" if preset.transfer_from == "fresh" else "transfer",
            transfer_from="searched" if preset.transfer_from == "searched" else "warmup",
            device="cuda" if trial.device == "cuda" else "cpu",
        ),
        trial.data,
    )
    # What this program does not compute is not compared.
    recorded = {name: value for name, value in trial.metrics.items() if name in figures}
    found = differences(recorded, figures)
    for line in comparison_text(replace(trial, metrics=recorded), found):
        print(line)
    return not found


def run(config: Config, loaded: SweepData | None = None) -> dict[str, float]:
    """Run all stages and return the figures; each line printed is one epoch or one result."""
    loaded = loaded or load_data(config)
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
    return figures


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
        if config.from_run is not None:
            return 0 if repeat(config) else 1
        if config.tracking_uri is not None:
            raise InputError("--tracking-uri goes with --from-run: this program records nothing in MLflow")
        sizes = (
            f"batches of {config.search.batch_size} and {config.retrain.batch_size} sequences of up to "
            f"{config.search.max_length} positions, {config.space.hidden_size} hidden dimensions"
        )
        with memory_explained("the search, or the training of what it derived", sizes):
            run(config)
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except (NonFiniteLossError, MemoryExhaustedError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except DiskFullError as error:
        print(f"{name}: {error}; then the same command goes on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last epoch", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
