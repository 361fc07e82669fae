"""What an epoch of training takes: ours and RecBole's SASRec, in one run.

    python benchmarks/training.py

Both take turns, in processes of their own with the same threads and the same allocator settings: an epoch
of ours, then a batch of RecBole's. An epoch of RecBole's is its median batch times its number of batches,
since the whole would take hours. In both, every interaction but a user's first is a target once an epoch.
The result is printed and written to the section "Training" of RESULTS.md. It takes five minutes.
"""

import json
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from peers.client import ALLOCATOR, Entrant, Worker, take_turns
from peers.environment import EnvironmentConfig, recbole_python
from peers.inter_file import write_inter
from report import command, conditions, markdown_table, paragraph, verdict, write_section

from easrec.data.interactions import load_interactions
from easrec.data.sequences import leave_one_out
from easrec.errors import InputError
from easrec.models.architecture import Architecture

HERE = Path(__file__).parent
OTHERS = "RecBole SASRec"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Time epochs of training."""

    data: str = "ml-100k"
    """Data set by name or path."""
    threads: int = 2
    """CPU threads."""
    recbole: Path | None = None
    """Directory of RecBole's environment, see `benchmarks/peers/environment.py`."""
    pip_args: str = ""
    """Passed to pip when that environment is made: --pip-args="--extra-index-url URL"."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A size at which both are trained: hidden 64, inner 256, 2 heads."""

    max_length: int
    layers: int
    batch: int
    """Sequences in a batch of RecBole's."""
    rounds: int
    targets: dict[str, float]
    """How many times shorter our epoch should be, by kind of network."""

    @property
    def architectures(self) -> dict[str, Architecture]:
        """Our networks of this size."""
        return {
            "softmax": Architecture(64, 256, self.layers, 2, "softmax", gate_layers=0),
            "linear": Architecture(64, 256, self.layers, 2, gate_layers=0),
            "linear, gates": Architecture(64, 256, self.layers, 2),
        }


SETTINGS = (
    Setting(50, 2, 2048, 7, {"softmax": 60, "linear": 60}),
    Setting(200, 4, 256, 3, {"softmax": 400}),
)

_NOTES = """
Hidden 64, inner 256, 2 heads, dropout 0.2 in both, fp32. Ours: `easrec.retrain` of one epoch as
a whole, with the making of the network and the validation; batches of 128 windows. RecBole's: loader, loss,
backward and Adam of one batch, the median times the batches of an epoch, without validation. Both have
{targets:,} training targets an epoch. `epochs` are those timed of ours, each beside a batch of RecBole's;
`times shorter` is the median ratio of the two. LinRec's layers are no part of the `recbole` package, so
they are not compared."""


def run(config: TrainingConfig) -> None:
    """Time, print and write."""
    python = recbole_python(EnvironmentConfig(directory=config.recbole, pip_args=config.pip_args))
    interactions = load_interactions(config.data)
    targets = int(leave_one_out(interactions).statistics["training_targets"])
    rows: list[list[str]] = []
    verdicts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="easrec-training-") as folder:
        write_inter(interactions, Path(folder), "log")
        script = HERE / "peers" / "recbole_training.py"
        with (
            Worker([sys.executable, HERE / "training_worker.py", config.data], config.threads) as ours,
            Worker([python, script, folder, "log"], config.threads) as theirs,
        ):
            for worker in (ours, theirs):
                worker.ask(do="threads", count=config.threads)
            for setting in SETTINGS:
                _time(setting, targets, ours, theirs, rows, verdicts)
            versions = ours.description["versions"] | {"RecBole": theirs.description["versions"]["recbole"]}
    columns = ("", "s an epoch", "s a batch", "batches", "epochs", "times shorter than RecBole's")
    made_with = conditions(
        command("training.py", config), versions, f"{config.threads} thread(s); {ALLOCATOR}"
    )
    notes = paragraph(_NOTES.format(targets=targets))
    body = "\n\n".join([made_with, notes, markdown_table(columns, rows), "\n".join(verdicts)])
    print(body)
    write_section("Training", body)


def _time(
    setting: Setting, targets: int, ours: Worker, theirs: Worker, rows: list[list[str]], verdicts: list[str]
) -> None:
    """Add the rows and verdicts of one setting."""
    print(f"timing N = {setting.max_length}, {setting.layers} layers", file=sys.stderr)
    size = {"max_length": setting.max_length, "layers": setting.layers, "batch": setting.batch}
    theirs.ask(do="requests", name="size", requests=[size])
    ((samples, batches),) = theirs.ask(do="answer", of="size", requests="size")["answers"]
    if samples != targets:
        raise RuntimeError(f"RecBole has {samples} training samples and we have {targets} targets")
    entrants = {OTHERS: Entrant(theirs, "batch", "size", batches)}
    for name, architecture in setting.architectures.items():
        request = {"architecture": architecture.to_json(), "max_length": setting.max_length}
        key = json.dumps(request)
        ours.ask(do="requests", name=key, requests=[request])
        entrants[name] = Entrant(ours, "epoch", key)
    (loss,) = theirs.ask(do="answer", of="batch", requests="size")["answers"]
    if not math.isfinite(loss):
        raise RuntimeError(f"RecBole's loss is {loss}; nothing was timed")
    times = take_turns(entrants, rounds=setting.rounds, count=1, untimed=0)
    where = f"N = {setting.max_length}, {setting.layers} layers"
    slow = times[OTHERS]
    rows.append(
        [
            f"{OTHERS}, {where}, batch {setting.batch:,}",
            f"{slow.median:,.0f}",
            f"{slow.median / batches:.2f}",
            f"{batches:,}",
            "",
            "1",
        ]
    )
    for name in setting.architectures:
        ratio = slow.ratio(times[name])
        rows.append(
            [
                f"ours, {name}, {where}",
                f"{times[name].median:.2f}",
                "",
                "",
                str(setting.rounds),
                f"{ratio:.0f}",
            ]
        )
        if name in setting.targets:
            target = setting.targets[name]
            verdicts.append(verdict(f"{name}, {where}", ratio, target, "times shorter epochs"))


def main() -> int:
    """Run what the command line describes; returns the exit status."""
    try:
        run(tyro.cli(TrainingConfig))
    except InputError as error:
        print(f"training.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
