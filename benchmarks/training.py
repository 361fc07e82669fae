"""What an epoch of training takes: ours and RecBole's SASRec, in one run.

    python benchmarks/training.py

Both take turns, in processes of their own with the same threads and the same allocator settings: an epoch
of ours, then a batch of RecBole's. An epoch of RecBole's is its median batch times its number of batches,
since the whole would take hours. In both, every interaction but a user's first is a target once an epoch.
The result is printed and written to the section "Training" of RESULTS.md. It takes eight minutes.
"""

import json
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peers.client import ALLOCATOR, Entrant, Times, Worker, take_turns
from peers.environment import recbole_python
from peers.inter_file import write_inter
from report import command, conditions, markdown_table, paragraph, verdict, write_section
from script import run_script

from easrec.data.interactions import load_interactions
from easrec.data.sequences import leave_one_out
from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.models.attention import linear_attention

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Time epochs of training."""

    data: str = "ml-100k"
    """Data set by name or path."""
    threads: int = 2
    """CPU threads."""
    max_lengths: tuple[int, ...] = (50, 200)
    """Positions of a sequence (N): 50, of 2 layers, and 200, of 4."""
    rounds: int | None = None
    """Turns of each, after one that does not count; by default 5 at N = 50 and 3 at N = 200."""
    recbole: Path | None = None
    """Directory of RecBole's environment, see `benchmarks/peers/environment.py`."""
    pip_args: str = ""
    """Passed to pip when that environment is made: --pip-args="--extra-index-url URL"."""


RIVALS: dict[str, dict[str, Any]] = {
    "RecBole, as shipped": {"attention": "softmax", "dropout": 0.5, "attention_dropout": 0.5},
    "RecBole, no attention dropout": {"attention": "softmax", "dropout": 0.2, "attention_dropout": 0.0},
    "RecBole with LinRec's attention": {"attention": "linear", "dropout": 0.2, "attention_dropout": 0.0},
}
SOFTMAX, FAST_SOFTMAX, LINREC = RIVALS


@dataclass(frozen=True, slots=True)
class Setting:
    """A size at which both are trained: hidden 64, inner 256, 2 heads."""

    max_length: int
    layers: int
    batch: int
    """Sequences in a batch of RecBole's."""
    rounds: int
    targets: tuple[tuple[str, str, float], ...]
    """(ours, RecBole's, how many times shorter our epoch should be)."""

    @property
    def architectures(self) -> dict[str, Architecture]:
        """Our networks of this size."""
        return {
            "softmax": Architecture(64, 256, self.layers, 2, "softmax", gate_layers=0),
            "linear": Architecture(64, 256, self.layers, 2, gate_layers=0),
            "linear, gates": Architecture(64, 256, self.layers, 2),
        }

    def __str__(self) -> str:
        return f"N = {self.max_length}, {self.layers} layers"


SETTINGS = (
    Setting(50, 2, 2048, 5, (("softmax", SOFTMAX, 60), ("softmax", FAST_SOFTMAX, 60))),
    Setting(
        200,
        4,
        256,
        3,
        (
            ("softmax", SOFTMAX, 400),
            ("softmax", FAST_SOFTMAX, 400),
            ("linear", LINREC, 80),
            ("linear, gates", LINREC, 80),
        ),
    ),
)

_NOTES = """
Hidden 64, inner 256, 2 heads, fp32. Ours: `easrec.retrain` of one epoch as a whole, with the making of the
network and the validation; dropout 0.2, none of attention probabilities; batches of 128 windows. RecBole's
SASRec: loader, loss, backward and Adam of one batch, the median times the batches of an epoch, without
validation. `as shipped` has RecBole's default dropout of 0.5, of attention probabilities too; `no attention
dropout` is RecBole's fastest, and drops what ours drops. `LinRec's attention` is LinRec's formula in
RecBole's SASRec, written for this benchmark (`peers/linrec.py`). All have {targets:,} training targets
an epoch. `timed` are epochs of ours and batches of RecBole's; `times shorter` is the median, over rounds in
which all took a turn, of the ratio of the two."""


def run(config: TrainingConfig) -> None:
    """Time, print and write."""
    settings = [setting for setting in SETTINGS if setting.max_length in config.max_lengths]
    if not settings or len(settings) < len(config.max_lengths):
        known = " and ".join(str(setting.max_length) for setting in SETTINGS)
        raise InputError(f"max_lengths must be some of {known}, got {config.max_lengths}")
    python = recbole_python(config.recbole, config.pip_args)
    interactions = load_interactions(config.data)
    targets = int(leave_one_out(interactions).statistics["training_targets"])
    parts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="easrec-training-") as folder:
        write_inter(interactions, Path(folder), "log")
        script = HERE / "peers" / "recbole_training.py"
        with (
            Worker([sys.executable, HERE / "training_worker.py", config.data], config.threads) as ours,
            Worker([python, script, folder, "log"], config.threads) as theirs,
        ):
            for worker in (ours, theirs):
                worker.ask(do="threads", count=config.threads)
            for setting in settings:
                parts.append(_time(setting, config.rounds or setting.rounds, targets, ours, theirs))
            versions = ours.description["versions"] | {"RecBole": theirs.description["versions"]["recbole"]}
    made_with = conditions(
        command("training.py", config), versions, f"{config.threads} thread(s); {ALLOCATOR}"
    )
    body = "\n\n".join([made_with, paragraph(_NOTES.format(targets=targets)), *parts])
    print(body)
    write_section("Training", body)


def _time(setting: Setting, rounds: int, targets: int, ours: Worker, theirs: Worker) -> str:
    """The table and verdicts of one setting."""
    print(f"timing {setting}", file=sys.stderr)
    size = {"max_length": setting.max_length, "layers": setting.layers, "batch": setting.batch}
    entrants: dict[str, Entrant] = {}
    for name, rival in RIVALS.items():
        theirs.ask(do="requests", name=name, requests=[size | rival])
        ((samples, batches),) = theirs.ask(do="answer", of="size", requests=name)["answers"]
        if samples != targets:
            raise RuntimeError(f"RecBole has {samples} training samples and we have {targets} targets")
        entrants[name] = Entrant(theirs, "batch", name, batches)
    (layer,) = theirs.ask(do="answer", of="first layer", requests=LINREC)["answers"]
    check_linear_attention(layer, heads=2)
    for name, architecture in setting.architectures.items():
        request = {"architecture": architecture.to_json(), "max_length": setting.max_length}
        key = json.dumps(request)
        ours.ask(do="requests", name=key, requests=[request])
        entrants[name] = Entrant(ours, "epoch", key)
    times = take_turns(entrants, rounds=rounds, count=1, untimed=0)
    for name in RIVALS:  # after the timing, since at N = 200 a batch takes long
        (loss,) = theirs.ask(do="answer", of="batch", requests=name)["answers"]
        if not math.isfinite(loss):
            raise RuntimeError(f"the loss of {name} is {loss}; its times mean nothing")
    verdicts = [
        verdict(f"{mine}, {setting}, against {rival}", times[rival].ratio(times[mine]), target, _UNIT)
        for mine, rival, target in setting.targets
    ]
    return "\n\n".join([_table(setting, entrants, times), "\n".join(verdicts)])


_UNIT = "times shorter epochs"


def _table(setting: Setting, entrants: dict[str, Entrant], times: dict[str, Times]) -> str:
    rows = []
    for name, entrant in entrants.items():
        of = times[name]
        rival = name in RIVALS
        low, high = min(of.all), max(of.all)
        figures = [f"{value:,.0f}" if rival else f"{value:.2f}" for value in (of.median, low, high)]
        rows.append(
            [
                f"{name}, batch {setting.batch:,}" if rival else f"ours, {name}",
                figures[0],
                f"{figures[1]} to {figures[2]}",
                f"{of.median / entrant.scale:.2f}" if rival else "",
                f"{entrant.scale:,}" if rival else "",
                str(len(of.all)),
                *("" if rival else f"{times[other].ratio(of):.0f}" for other in RIVALS),
            ]
        )
    columns = (str(setting), "s an epoch", "least to most", "s a batch", "batches", "timed")
    return markdown_table((*columns, *(f"times shorter than {name}" for name in RIVALS)), rows)


def check_linear_attention(layer: dict[str, Any], *, heads: int) -> None:
    """Compare LinRec's attention in RecBole's layer with ours of the same weights.

    Args:
        layer: `weights` of its module, an input and an output of it, (B, N, D).
        heads: H.

    Raises:
        RuntimeError: the outputs differ.
    """
    weights = {name: torch.tensor(value) for name, value in layer["weights"].items()}
    inputs = torch.tensor(layer["inputs"])

    def dense(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    q, k, v = (
        dense(name, inputs).unflatten(2, (heads, -1)).transpose(1, 2) for name in ("query", "key", "value")
    )
    attended = linear_attention(q, k, v, key_norm="row", causal=False).transpose(1, 2).flatten(2)
    norm = (weights["LayerNorm.weight"], weights["LayerNorm.bias"])
    expected = F.layer_norm(dense("dense", attended) + inputs, inputs.shape[-1:], *norm, eps=1e-12)
    if not torch.allclose(torch.tensor(layer["outputs"]), expected, rtol=1e-4, atol=1e-5):
        raise RuntimeError("LinRec's attention in RecBole differs from ours of the same weights")


if __name__ == "__main__":
    sys.exit(run_script(run, TrainingConfig))
