"""How many targets are trained in a second: ours and RecTools' SASRec, in one run.

    python benchmarks/targets_per_second.py

Both are trained on one pass per sequence, but RecTools keeps only the last N + 1 items of a user, so that an
epoch of its has fewer targets; hence targets per second. Epochs of both take turns, in processes of their own
with the same threads and the same allocator settings. The result is printed and written to the section
"Targets per second" of RESULTS.md. It takes five minutes.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from peers.client import ALLOCATOR, Entrant, Times, Worker, take_turns
from peers.environment import EnvironmentConfig, peer_python
from report import command, conditions, markdown_table, paragraph, verdict, write_section
from script import run_script

from easrec.data.interactions import load_interactions
from easrec.data.sequences import SplitData, leave_one_out
from easrec.errors import InputError
from easrec.models.architecture import Architecture

HERE = Path(__file__).parent
HEADS = 2
TARGET = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsConfig:
    """Time epochs of training."""

    data: str = "ml-100k"
    """Data set by name or path."""
    threads: int = 2
    """CPU threads."""
    max_lengths: tuple[int, ...] = (50, 200)
    """Positions of a sequence (N): 50, of 2 layers, and 200, of 4."""
    rounds: int | None = None
    """Turns of each, after one that does not count; by default 9 at N = 50 and 3 at N = 200."""
    batch_sizes: tuple[int, ...] = (128, 256)
    """Sequences in a batch of RecTools'; it is judged by the fastest."""
    rectools: Path | None = None
    """Directory of RecTools' environment, see `benchmarks/peers/environment.py`."""
    pip_args: str = ""
    """Passed to pip when that environment is made: --pip-args="--extra-index-url URL"."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A size at which both are trained: hidden 64, 2 heads."""

    max_length: int
    layers: int
    rounds: int

    @property
    def architectures(self) -> dict[str, Architecture]:
        """Our networks of this size; the first has RecTools' inner size."""
        return {
            "softmax, inner 64": Architecture(64, 64, self.layers, HEADS, "softmax", gate_layers=0),
            "softmax, inner 256": Architecture(64, 256, self.layers, HEADS, "softmax", gate_layers=0),
        }

    def __str__(self) -> str:
        return f"N = {self.max_length}, {self.layers} layers"


SETTINGS = (Setting(50, 2, 9), Setting(200, 4, 3))

_NOTES = """
Hidden 64, 2 heads, dropout 0.2, cross-entropy over all items, fp32. RecTools' `SASRecModel` by its own
`fit_partial` and Lightning trainer, from the first batch of an epoch to the end of the last; its
feed-forward network has an inner size of 64. Ours: `easrec.retrain` of one epoch, batches of 128 windows,
over the same extent, and as a whole with the making of the network and the validation. Both learn from the
training interactions alone. `times RecTools` is the median, over rounds in which all took a turn, of the
ratio of targets per second."""


def run(config: TargetsConfig) -> None:
    """Time, print and write."""
    settings = [setting for setting in SETTINGS if setting.max_length in config.max_lengths]
    if not settings or len(settings) < len(config.max_lengths):
        known = " and ".join(str(setting.max_length) for setting in SETTINGS)
        raise InputError(f"max_lengths must be some of {known}, got {config.max_lengths}")
    environment = EnvironmentConfig(peer="rectools", directory=config.rectools, pip_args=config.pip_args)
    python = peer_python(environment)
    data = leave_one_out(load_interactions(config.data))
    parts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="easrec-targets-") as folder:
        log = Path(folder) / "log.csv"
        write_training_log(data, log)
        with (
            Worker([sys.executable, HERE / "training_worker.py", config.data], config.threads) as ours,
            Worker([python, HERE / "peers" / "rectools_training.py", log], config.threads) as theirs,
        ):
            for worker in (ours, theirs):
                worker.ask(do="threads", count=config.threads)
            for setting in settings:
                parts.append(_time(setting, config, data, ours, theirs))
            versions = ours.description["versions"] | {"RecTools": theirs.description["versions"]["rectools"]}
    made_with = conditions(
        command("targets_per_second.py", config), versions, f"{config.threads} thread(s); {ALLOCATOR}"
    )
    body = "\n\n".join([made_with, paragraph(_NOTES), *parts])
    print(body)
    write_section("Targets per second", body)


def write_training_log(data: SplitData, path: Path) -> None:
    """The training interactions as csv; their times are their places in the user's history, in seconds."""
    lengths = data.train_ends - data.starts
    places = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    frame = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(data.num_users), lengths),
            "item_id": data.items[np.repeat(data.starts, lengths) + places],
            "datetime": pd.Timestamp("2000-01-01") + pd.to_timedelta(places, unit="s"),
        }
    )
    frame.to_csv(path, index=False)


def covered_targets(data: SplitData, max_length: int) -> int:
    """Targets of an epoch that has only the last `max_length` + 1 training items of each user."""
    return int(np.minimum(np.maximum(data.train_ends - data.starts - 1, 0), max_length).sum())


def _time(setting: Setting, config: TargetsConfig, data: SplitData, ours: Worker, theirs: Worker) -> str:
    """The table and the verdict of one setting."""
    print(f"timing {setting}", file=sys.stderr)
    targets = {"ours": int(data.statistics["training_targets"])}
    targets["theirs"] = covered_targets(data, setting.max_length)
    entrants: dict[str, Entrant] = {}
    for batch in config.batch_sizes:
        name = f"RecTools, batch {batch}"
        request = {"max_length": setting.max_length, "layers": setting.layers, "heads": HEADS, "batch": batch}
        theirs.ask(do="requests", name=name, requests=[request])
        entrants[name] = Entrant(theirs, "epoch", name, 1 / targets["theirs"])
    for name, architecture in setting.architectures.items():
        request = {"architecture": architecture.to_json(), "max_length": setting.max_length}
        key = json.dumps(request)
        ours.ask(do="requests", name=key, requests=[request])
        entrants[f"ours, {name}"] = Entrant(ours, "batches", key, 1 / targets["ours"])
        entrants[f"ours, {name}, whole `retrain`"] = Entrant(ours, "epoch", key, 1 / targets["ours"])
    times = take_turns(entrants, rounds=config.rounds or setting.rounds, count=1, untimed=0)
    rivals = [name for name in entrants if entrants[name].worker is theirs]
    for name in rivals:
        (size,) = theirs.ask(do="answer", of="size", requests=name)["answers"]
        if size["targets"] != targets["theirs"]:
            raise RuntimeError(f"RecTools has {size['targets']} targets and not {targets['theirs']}")
    fastest = min(rivals, key=lambda name: times[name].median)
    verdicts = [
        verdict(f"{name}, {setting}, against {fastest}", times[fastest].ratio(times[name]), TARGET, _UNIT)
        for name in entrants
        if name not in rivals
    ]
    return "\n\n".join([_table(setting, entrants, times, rivals), "\n".join(verdicts)])


_UNIT = "times the targets per second"


def _table(setting: Setting, entrants: dict[str, Entrant], times: dict[str, Times], rivals: list[str]) -> str:
    rows = []
    for name, entrant in entrants.items():
        of = times[name]
        rows.append(
            [
                name,
                f"{1 / of.median:,.0f}",
                f"{1 / max(of.all):,.0f} to {1 / min(of.all):,.0f}",
                f"{1 / entrant.scale:,.0f}",
                f"{of.median / entrant.scale:.2f}",
                str(len(of.all)),
                *(f"{times[rival].ratio(of):.2f}" for rival in rivals),
            ]
        )
    columns = (str(setting), "targets a second", "least to most", "targets an epoch", "s an epoch", "epochs")
    return markdown_table((*columns, *(f"times {rival}" for rival in rivals)), rows)


if __name__ == "__main__":
    sys.exit(run_script(run, TargetsConfig))
