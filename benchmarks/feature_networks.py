"""How accurate RecBole's SASRecF and FDSA are beside ours, after as many epochs.

    python benchmarks/feature_networks.py

RecBole's are trained for `epochs` epochs each, which takes over an hour; ours with `runs` seeds. All
read the same features of the items, and all are ranked by the same code after every epoch. What has been
trained is kept in the cache directory: a stopped run goes on by the same command, and one that has finished
writes its tables again. The result is printed and written to the section "Networks that read features" of
RESULTS.md.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from curves import Point, best_epoch
from peers.client import Worker
from peers.environment import recbole_python
from peers.inter_file import write_inter, write_items
from recbole_epochs import (
    MAX_LENGTH,
    Epoch,
    answer,
    locked,
    order_of,
    ranked,
    read_owned,
    scores_path,
)
from report import command, conditions, markdown_table, own_versions, paragraph, write_section
from script import run_script

from easrec.baselines import Baseline, train_baseline
from easrec.data.catalog import default_cache_dir
from easrec.data.feature_table import FeatureTable, load_feature_table
from easrec.data.interactions import Interactions, load_interactions
from easrec.data.sequences import SplitData, leave_one_out
from easrec.evaluation.protocols import PROTOCOLS, evaluate
from easrec.files import write_json
from easrec.models.architecture import Architecture
from easrec.retrain import RetrainConfig
from easrec.training import fingerprint

HERE = Path(__file__).parent
RECORDS = "records.json"
SELECTION = "unseen"
ARCHITECTURE = Architecture(64, 256, 2, 2, "softmax", gate_layers=0)
DROPOUT = 0.2
"""Of hidden values and of attention weights, on both sides."""
PEERS: dict[Baseline, str] = {"sasrecf": "SASRecF", "fdsa": "FDSA"}


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureNetworksConfig:
    """Compare networks that read features with RecBole's."""

    data: str = "ml-100k"
    """Data set by name or path, one that brings features of its items along."""
    epochs: int = 8
    """Epochs of every training."""
    runs: int = 5
    """Trainings of each of ours."""
    threads: int = 1
    """CPU threads."""
    batch_size: int = 64
    """Windows in a batch of ours."""
    learning_rate: float = 2e-3
    """Adam's step size in ours."""
    directory: Path | None = None
    """Where trainings leave what they reached; by default `feature-networks` in the cache directory."""
    recbole: Path | None = None
    """Directory of RecBole's environment, see `benchmarks/peers/environment.py`."""
    pip_args: str = ""
    """Passed to pip when that environment is made: --pip-args="--extra-index-url URL"."""


_NOTES = """
Validation NDCG@10 after at most {epochs} epochs, each of which has every interaction but a user's first as
a target once, on both sides; an epoch is chosen by `{selection}`. N = 50, hidden 64, inner 256, 2 layers, 2
heads, softmax attention, dropout {dropout:g} of hidden values and of attention weights, cross-entropy over
all items, Adam. RecBole: 1e-3, batches of 2,048 prefixes, one seed. Ours: {rate:g}, batches of {batch}
windows, {runs} seeds: mean (least to most). Both read `{feature}` of the items, {values} values; items
without one: {missing:.0%}. One figure under `full` has a standard error of {error:.4f} over its users."""


@dataclass(slots=True)
class Records:
    """What has been trained, on disk after each addition."""

    path: Path
    owner: str
    """Fingerprint of data, features, threads, versions."""
    recbole: dict[str, list[Epoch]] = field(default_factory=dict)
    """By name of RecBole's network."""
    ours: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By fingerprint of network, settings and seed the fields of `Training`."""

    @classmethod
    def read(cls, path: Path, owner: str) -> "Records":
        """Those that an earlier run left, or empty ones.

        Raises:
            InputError: they belong to other settings.
        """
        found = read_owned(path, owner)
        if found is None:
            return cls(path, owner)
        recbole = {name: [Epoch(**epoch) for epoch in epochs] for name, epochs in found["recbole"].items()}
        return cls(path, owner, recbole, found["ours"])

    def write(self) -> None:
        """Put them on disk."""
        recbole = {name: [asdict(epoch) for epoch in epochs] for name, epochs in self.recbole.items()}
        write_json(self.path, {"owner": self.owner, "recbole": recbole, "ours": self.ours})


@dataclass(frozen=True, slots=True)
class Training:
    """A training of ours."""

    curve: list[float]
    """NDCG@10 under the selection protocol, by epoch."""
    best: dict[str, float]
    """By protocol, at the best of these epochs."""


def train_ours(
    baseline: Baseline, config: FeatureNetworksConfig, data: SplitData, features: FeatureTable, seed: int
) -> Training:
    """Train one of ours for as many epochs, none of them saved by early stopping."""
    curve: list[float] = []
    settings = RetrainConfig(
        seed=seed,
        max_length=MAX_LENGTH,
        max_epochs=config.epochs,
        patience=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        dropout=DROPOUT,
    )
    result = train_baseline(
        baseline,
        ARCHITECTURE,
        data,
        settings,
        features=features,
        attention_dropout=DROPOUT,
        on_epoch=lambda report: curve.append(report.metrics[f"valid/{SELECTION}/ndcg_at_10"]),
    )
    metrics = evaluate(result.model.scores, data, "valid", max_length=MAX_LENGTH)
    return Training(curve, {name: metrics[f"{name}/ndcg_at_10"] for name in PROTOCOLS})


def train_recbole(
    name: str,
    config: FeatureNetworksConfig,
    python: Path,
    interactions: Interactions,
    data: SplitData,
    features: FeatureTable,
    directory: Path,
    records: Records,
) -> str:
    """Train what is missing of one of RecBole's networks; returns RecBole's version."""
    state = directory.absolute() / name
    state.mkdir(exist_ok=True)
    epochs = records.recbole.setdefault(name, [])
    with tempfile.TemporaryDirectory(prefix="easrec-features-") as folder:
        write_inter(interactions, Path(folder), "log")
        write_items(features, interactions, Path(folder), "log")
        script = HERE / "peers" / "recbole_curve.py"
        with Worker([python, script, folder, "log", state, name], config.threads) as theirs:
            theirs.ask(do="threads", count=config.threads)
            order = order_of(answer(theirs, "tokens", None), interactions)
            done: list[dict[str, float]] = answer(theirs, "epochs", None)
            while len(epochs) < config.epochs:
                number = len(epochs) + 1
                if number > len(done):
                    print(f"training RecBole's {name}, epoch {number} of {config.epochs}", file=sys.stderr)
                    done.append(answer(theirs, "epoch", None))
                epochs.append(ranked(done[number - 1], state, number, order, data))
                records.write()
                scores_path(state, number).unlink()
                seconds, value = epochs[-1].seconds, epochs[-1].ndcg[SELECTION]
                print(f"  {seconds:.0f} s, NDCG@10 {value:.4f} under {SELECTION}", file=sys.stderr)
            return str(theirs.description["versions"]["recbole"])


def run(config: FeatureNetworksConfig) -> None:
    """Train what is missing, print and write."""
    torch.set_num_threads(config.threads)
    python = recbole_python(config.recbole, config.pip_args)
    interactions = load_interactions(config.data)
    features = load_feature_table(config.data, interactions)
    data = leave_one_out(interactions)
    directory = config.directory or default_cache_dir() / "feature-networks"
    with locked(directory):
        versions = own_versions("easrec", "torch", "numpy")
        owner = fingerprint(data.checksum, features.checksum, config.threads, versions)
        records = Records.read(directory / RECORDS, owner)
        ours = {name: _ours(name, config, data, features, records) for name in PEERS}
        for name in PEERS.values():
            versions["RecBole"] = train_recbole(
                name, config, python, interactions, data, features, directory, records
            )
    body = _report(config, features, records, ours, versions)
    print(body)
    write_section("Networks that read features", body)


def _ours(
    name: Baseline, config: FeatureNetworksConfig, data: SplitData, features: FeatureTable, records: Records
) -> list[Training]:
    """All trainings of one of ours, those that an earlier run left and those that are missing."""
    trainings = []
    for seed in range(config.runs):
        key = fingerprint(name, config.epochs, config.batch_size, config.learning_rate, seed)
        if key not in records.ours:
            print(f"training our {PEERS[name]}, seed {seed}", file=sys.stderr)
            records.ours[key] = asdict(train_ours(name, config, data, features, seed))
            records.write()
        trainings.append(Training(**records.ours[key]))
    return trainings


def _report(
    config: FeatureNetworksConfig,
    features: FeatureTable,
    records: Records,
    ours: dict[Baseline, list[Training]],
    versions: dict[str, str],
) -> str:
    """The section."""
    rows: list[list[str]] = []
    for baseline, name in PEERS.items():
        epochs = records.recbole[name][: config.epochs]
        best = best_epoch([Point(epoch.seconds, epoch.ndcg) for epoch in epochs], SELECTION)
        chosen = epochs[best - 1].ndcg
        rows.append([f"RecBole's {name}", str(best), *(f"{chosen[protocol]:.4f}" for protocol in PROTOCOLS)])
        at = [1 + max(range(len(one.curve)), key=one.curve.__getitem__) for one in ours[baseline]]
        cells = [_mean_and_spread([one.best[protocol] for one in ours[baseline]]) for protocol in PROTOCOLS]
        rows.append([f"our {name}", f"{min(at)} to {max(at)}", *cells])
    notes = _NOTES.format(
        epochs=config.epochs,
        selection=SELECTION,
        dropout=DROPOUT,
        rate=config.learning_rate,
        batch=config.batch_size,
        runs=config.runs,
        feature=features.name,
        values=features.num_values,
        missing=1 - features.described_share,
        error=max(epochs[-1].full_standard_error for epochs in records.recbole.values()),
    )
    line = command("feature_networks.py", config)
    return "\n\n".join(
        [
            conditions(line, versions, f"{config.threads} thread(s)"),
            paragraph(notes),
            markdown_table(("", "best epoch", *(f"`{name}`" for name in PROTOCOLS)), rows),
            f"By epoch, under `{SELECTION}`; of ours the mean:",
            markdown_table(*_by_epoch(config.epochs, records, ours)),
        ]
    )


def _by_epoch(
    epochs: int, records: Records, ours: dict[Baseline, list[Training]]
) -> tuple[Sequence[str], list[list[str]]]:
    """Columns and rows of the curves."""
    columns = ["epoch"]
    curves: list[list[float]] = []
    for baseline, name in PEERS.items():
        columns += [f"RecBole's {name}", f"our {name}"]
        curves.append([epoch.ndcg[SELECTION] for epoch in records.recbole[name]])
        curves.append([statistics.fmean(one.curve[n] for one in ours[baseline]) for n in range(epochs)])
    rows = [[str(n + 1), *(f"{curve[n]:.4f}" for curve in curves)] for n in range(epochs)]
    return columns, rows


def _mean_and_spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    sys.exit(run_script(run, FeatureNetworksConfig))
