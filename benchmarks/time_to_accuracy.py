"""How long training takes to RecBole's accuracy: RecBole's SASRec and ours, in one run.

    python benchmarks/time_to_accuracy.py

RecBole is trained epoch after epoch until its own validation has not grown for `patience` epochs, which takes
over an hour. After each of its epochs one of our networks is trained from fresh weights with the next seed.
Every epoch of both is ranked under all protocols by the same code. What has been trained is kept in the cache
directory after each step: a stopped run goes on by the same command, and one that has finished writes its
tables again. The result is printed and written to the section "Time to accuracy" of RESULTS.md.
"""

import math
import statistics
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from curves import Curve, Point, Reached, best_epoch, seconds_to_reach, without_gain
from peers.client import ALLOCATOR, Worker
from peers.environment import recbole_python
from peers.inter_file import write_inter
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
from report import command, conditions, markdown_table, paragraph, verdict, write_section
from script import run_script
from torch import Tensor

from easrec.data.catalog import default_cache_dir
from easrec.data.interactions import load_interactions
from easrec.data.sequences import SplitData, leave_one_out
from easrec.errors import InputError
from easrec.evaluation.protocols import PROTOCOLS
from easrec.files import write_json
from easrec.models.architecture import Architecture
from easrec.training import fingerprint

HERE = Path(__file__).parent
RECORDS = "records.json"
ARCHITECTURES = {
    "softmax": Architecture(64, 256, 2, 2, "softmax", gate_layers=0),
    "linear, gates": Architecture(64, 256, 2, 2),
}
TARGET = 30.0
STANDARD_ERROR = 0.006
"""Of RecBole's NDCG@10 under `full`, over 943 users."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeToAccuracyConfig:
    """Time trainings to an accuracy."""

    data: str = "ml-100k"
    """Data set by name or path."""
    threads: int = 1
    """CPU threads."""
    patience: int = 10
    """Epochs without a better validation NDCG@10 after which a training ends, on both sides."""
    recbole_epochs: int = 100
    """The most epochs of RecBole's."""
    max_epochs: int = 30
    """The most epochs of ours."""
    batch_size: int = 64
    """Windows in a batch of ours."""
    learning_rate: float = 2e-3
    """Adam's step size in ours."""
    runs: int = 5
    """Trainings of each of our networks, at least."""
    directory: Path | None = None
    """Where trainings leave what they reached; by default `time-to-accuracy` in the cache directory."""
    report_only: bool = False
    """Train nothing and write the tables of what is there, also while another run trains."""
    recbole: Path | None = None
    """Directory of RecBole's environment, see `benchmarks/peers/environment.py`."""
    pip_args: str = ""
    """Passed to pip when that environment is made: --pip-args="--extra-index-url URL"."""


_NOTES = """
N = 50, hidden 64, inner 256, 2 layers, 2 heads, validation NDCG@10. RecBole's SASRec: cross-entropy, Adam
1e-3, batches of 2,048 prefixes, dropout 0.2, ended by its own `full` ranking ({patience} epochs without a
gain); {seconds:.0f} s an epoch (median), and only these seconds of `Trainer.fit` without evaluation count.
Ours: `easrec.retrain` of fresh weights, Adam {rate:g}, batches of {batch} windows, dropout 0.2, at most
{epochs} epochs, ended by `unseen` (patience {patience}). All that `retrain` does counts: the network, its
validation after each epoch, a checkpoint; the ranking of each epoch under the other protocols does not. The
machine was shared with other work; a training of ours follows each epoch of RecBole's, so that this falls on
both. RecBole's own NDCG@10 and ours of the same scores differ by at most {difference:.1e}."""

_REACHED = """
`RecBole's best` is the time to the epoch that its own validation chooses, `RecBole's first` that to the first
of its epochs which reaches the same value. Ours: the median (the upper of two) over all trainings, those
that never reached the value counted as endless, and the fastest and slowest that did."""


@dataclass(slots=True)
class Records:
    """What has been trained so far, on disk after each addition."""

    path: Path
    owner: str
    """Fingerprint of the data and of RecBole's settings."""
    recbole: list[Epoch] = field(default_factory=list)
    ours: dict[str, list[list[dict[str, Any]]]] = field(default_factory=dict)
    """By fingerprint of architecture and settings the trainings of seeds 0, 1, ..., each a list of epochs."""

    @classmethod
    def read(cls, path: Path, owner: str) -> "Records":
        """Those that an earlier run left, or empty ones.

        Raises:
            InputError: they belong to other settings.
        """
        found = read_owned(path, owner)
        if found is None:
            return cls(path, owner)
        return cls(path, owner, [Epoch(**epoch) for epoch in found["recbole"]], found["ours"])

    def write(self) -> None:
        """Put them on disk."""
        recbole = [{name: getattr(epoch, name) for name in Epoch.__slots__} for epoch in self.recbole]
        write_json(self.path, {"owner": self.owner, "recbole": recbole, "ours": self.ours})


def recbole_curve(epochs: list[Epoch]) -> list[Point]:
    """RecBole's epochs as points of a curve."""
    seconds = np.cumsum([epoch.seconds for epoch in epochs]).tolist()
    return [Point(at, epoch.ndcg) for at, epoch in zip(seconds, epochs, strict=True)]


def our_curve(epochs: list[dict[str, Any]]) -> list[Point]:
    """A training of ours as points of a curve."""
    return [Point(**epoch) for epoch in epochs]


def own_ranking(epochs: list[Epoch]) -> list[Point]:
    """RecBole's epochs with its own figure alone, by which it stops and chooses."""
    return [Point(0.0, {"full": epoch.full}) for epoch in epochs]


class Comparison:
    """Both sides, and what they have reached."""

    def __init__(self, config: TimeToAccuracyConfig, data: SplitData, ours: Worker, theirs: Worker) -> None:
        self.config, self.data, self.ours, self.theirs = config, data, ours, theirs
        self.directory = config.directory or default_cache_dir() / "time-to-accuracy"
        settings = [data.checksum, config.threads, theirs.description["versions"]]
        self.records = Records.read(self.directory / RECORDS, fingerprint(*settings))
        self.number = 0

    def train(self, order: tuple[Tensor, Tensor]) -> None:
        """Train what is missing, both sides in turn.

        Args:
            order: rows and columns of RecBole's scores, in our order of questions and items.
        """
        done = answer(self.theirs, "epochs", None)
        for epoch in range(len(self.records.recbole), len(done)):
            self._record(epoch, done[epoch], order)
        while not self.recbole_ended:
            epoch = len(self.records.recbole)
            print(f"training RecBole, epoch {epoch + 1}", file=sys.stderr)
            self._record(epoch, answer(self.theirs, "epoch", None), order)
            kinds = list(ARCHITECTURES)
            self._train_ours(kinds[epoch % len(kinds)])
        for kind in ARCHITECTURES:
            while len(self.trainings(kind)) < self.config.runs:
                self._train_ours(kind)

    @property
    def recbole_ended(self) -> bool:
        """Whether RecBole's training has come to its end."""
        epochs = self.records.recbole
        return (
            len(epochs) >= self.config.recbole_epochs
            or without_gain(own_ranking(epochs), "full") >= self.config.patience
        )

    def trainings(self, kind: str) -> list[Curve]:
        """Those of one of our networks."""
        return [our_curve(epochs) for epochs in self.records.ours.get(self._key(kind), [])]

    def _settings(self) -> dict[str, Any]:
        config = self.config
        return {
            "max_length": MAX_LENGTH,
            "max_epochs": config.max_epochs,
            "patience": config.patience,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
        }

    def _key(self, kind: str) -> str:
        return fingerprint(ARCHITECTURES[kind].to_dict(), self._settings())

    def _train_ours(self, kind: str) -> None:
        runs = self.records.ours.setdefault(self._key(kind), [])
        print(f"training ours, {kind}, seed {len(runs)}", file=sys.stderr)
        request = {
            "architecture": ARCHITECTURES[kind].to_json(),
            "config": self._settings() | {"seed": len(runs)},
        }
        runs.append(answer(self.ours, "curve", request))
        self.records.write()

    def _record(self, epoch: int, found: dict[str, float], order: tuple[Tensor, Tensor]) -> None:
        self.records.recbole.append(ranked(found, self.directory, epoch + 1, order, self.data))
        self.records.write()
        scores_path(self.directory, epoch + 1).unlink()
        ndcg = self.records.recbole[-1].ndcg
        print(f"RecBole, epoch {epoch + 1}: {found['seconds']:.0f} s, {ndcg}", file=sys.stderr)


def run(config: TimeToAccuracyConfig) -> None:
    """Train what is missing, print and write."""
    python = recbole_python(config.recbole, config.pip_args)
    interactions = load_interactions(config.data)
    data = leave_one_out(interactions)
    directory = config.directory or default_cache_dir() / "time-to-accuracy"
    # Records are written as a whole, so they can be read while another run trains.
    lock = nullcontext() if config.report_only else locked(directory)
    with lock, tempfile.TemporaryDirectory(prefix="easrec-curve-") as folder:
        write_inter(interactions, Path(folder), "log")
        script = HERE / "peers" / "recbole_curve.py"
        state = directory.absolute()
        with (
            Worker([sys.executable, HERE / "curve_worker.py", config.data], config.threads) as ours,
            Worker([python, script, folder, "log", state, "SASRec"], config.threads) as theirs,
        ):
            for worker in (ours, theirs):
                worker.ask(do="threads", count=config.threads)
            comparison = Comparison(config, data, ours, theirs)
            if not config.report_only:
                comparison.train(order_of(answer(theirs, "tokens", None), interactions))
            if not comparison.records.recbole:
                raise InputError(f"nothing has been trained in {directory}; run without --report-only")
            versions = ours.description["versions"] | {"RecBole": theirs.description["versions"]["recbole"]}
            body = _report(comparison, versions)
    print(body)
    write_section("Time to accuracy", body)


def _report(comparison: Comparison, versions: dict[str, str]) -> str:
    """The section."""
    config, epochs = comparison.config, comparison.records.recbole
    theirs = recbole_curve(epochs)
    best = best_epoch(own_ranking(epochs), "full")
    chosen = epochs[best - 1]
    ended = "" if comparison.recbole_ended else " RecBole's training has **not ended yet**."
    trained = {kind: comparison.trainings(kind) for kind in ARCHITECTURES}
    parts = [
        conditions(
            command("time_to_accuracy.py", config), versions, f"{config.threads} thread(s); {ALLOCATOR}"
        ),
        paragraph(
            _NOTES.format(
                patience=config.patience,
                seconds=statistics.median(epoch.seconds for epoch in epochs),
                rate=config.learning_rate,
                batch=config.batch_size,
                epochs=config.max_epochs,
                difference=max(abs(epoch.full - epoch.ndcg["full"]) for epoch in epochs),
            )
        )
        + ended,
        _accuracy(chosen, best, len(epochs), trained),
    ]
    thresholds = {
        "pop100": chosen.ndcg["pop100"],
        "full": chosen.ndcg["full"] - STANDARD_ERROR,
    }
    names = {
        "pop100": f"`pop100`, {thresholds['pop100']:.4f}",
        "full": f"`full` less {STANDARD_ERROR} (its standard error: {chosen.full_standard_error:.4f}), "
        f"{thresholds['full']:.4f}",
    }
    rows, verdicts = [], []
    seconds = theirs[best - 1].seconds
    for protocol, value in thresholds.items():
        first = seconds_to_reach(theirs, protocol, value)
        for kind, curves in trained.items():
            reached = Reached([seconds_to_reach(curve, protocol, value) for curve in curves])
            if not reached.seconds:
                continue
            rows.append([names[protocol], kind, *_reached_cells(seconds, first, reached)])
            verdicts.append(
                verdict(
                    f"{kind}, under {names[protocol]}",
                    seconds / reached.median,
                    TARGET,
                    "times sooner than RecBole's best epoch",
                )
            )
    columns = (
        "validation NDCG@10", "ours", "RecBole's best, s", "RecBole's first, s", "ours, s",
        "fastest to slowest", "reached by", "best / ours", "first / ours",
    )  # fmt: skip
    parts += [paragraph(_REACHED), markdown_table(columns, rows), "\n".join(verdicts)]
    parts.append(_by_epoch(epochs, trained))
    return "\n\n".join(parts)


def _reached_cells(seconds: float, first: float, reached: Reached) -> list[str]:
    finite = sorted(value for value in reached.seconds if math.isfinite(value))
    return [
        f"{seconds:,.0f}",
        f"{first:,.0f}",
        f"{reached.median:.1f}" if math.isfinite(reached.median) else "never",
        f"{finite[0]:.1f} to {finite[-1]:.1f}" if finite else "-",
        f"{reached.count} of {len(reached.seconds)}",
        f"{seconds / reached.median:.1f}",
        f"{first / reached.median:.1f}",
    ]


def _accuracy(chosen: Epoch, best: int, count: int, trained: dict[str, list[Curve]]) -> str:
    """NDCG@10 at the epochs that each side's own validation chooses."""
    rows = [
        [f"RecBole SASRec, epoch {best} of {count}", "1", *(f"{chosen.ndcg[name]:.4f}" for name in PROTOCOLS)]
    ]
    for kind, curves in trained.items():
        if curves:
            points = [curve[best_epoch(curve, "unseen") - 1] for curve in curves]
            cells = [_mean_and_spread([point.ndcg[name] for point in points]) for name in PROTOCOLS]
            rows.append([f"ours, {kind}, chosen by `unseen`", str(len(curves)), *cells])
            points = [curve[best_epoch(curve, "full") - 1] for curve in curves]
            cells = [_mean_and_spread([point.ndcg[name] for point in points]) for name in PROTOCOLS]
            rows.append([f"ours, {kind}, chosen by `full`", str(len(curves)), *cells])
    return markdown_table(("validation NDCG@10", "trainings", *(f"`{name}`" for name in PROTOCOLS)), rows)


def _mean_and_spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def _by_epoch(epochs: list[Epoch], trained: dict[str, list[Curve]]) -> str:
    """Curves, by epoch, as far as RecBole's goes: its own, and the medians of ours."""
    columns = ["epoch", "RecBole, s", "`full`", "`pop100`"]
    for kind in trained:
        columns += [f"{kind}, s", "`full`", "`pop100`"]
    theirs = recbole_curve(epochs)
    rows = []
    for index in range(len(epochs)):
        row = [str(index + 1)]
        for curves in ([theirs], *trained.values()):
            points = [curve[index] for curve in curves if index < len(curve)]
            if not points:
                row += ["", "", ""]
                continue
            row.append(f"{statistics.median(point.seconds for point in points):,.1f}")
            row += [
                f"{statistics.median(point.ndcg[name] for point in points):.4f}"
                for name in ("full", "pop100")
            ]
        rows.append(row)
    return "Medians over the trainings that lasted so long:\n\n" + markdown_table(columns, rows)


if __name__ == "__main__":
    sys.exit(run_script(run, TimeToAccuracyConfig))
