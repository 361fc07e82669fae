"""What a user asks of a sweep. Imports nothing slow: the command line's help is made from it."""

import dataclasses
import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from easrec.errors import InputError

DEFAULT_DATASET = "ml-100k"

_NOT_OF_THE_RESULTS = ("output", "ray_address", "resume", "plan")
"""Options that a resumed sweep may change."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Run EASRec once for each lambda and seed, as Ray Tune trials, and find the Pareto front.

    An option left out takes the value of the preset where its help says so.
    """

    dataset: str = DEFAULT_DATASET
    """Data set known by name; it is fetched once and kept in a cache directory."""
    data: Path | None = None
    """Your own log instead: .parquet, .csv or RecBole's .inter, one row per interaction."""
    user_column: str = "user_id"
    """Column of --data that holds the user."""
    item_column: str = "item_id"
    """Column of --data that holds the item."""
    time_column: str = "timestamp"
    """Column of --data that holds the time; only its order matters, so any unit will do."""
    tradeoffs: tuple[float, ...] = ()
    """Grid of lambda, the weight of the resource term in the search (no unit; 0 searches for accuracy
    alone). Left out: the preset's."""
    seeds: int = 1
    """How many seeds; each lambda is run once per seed."""
    seed: int = 0
    """The first seed; the others follow it."""
    preset: Literal["quick", "smoke", "paper"] = "quick"
    """quick: minutes on two CPU cores. smoke: a few hundred users and epochs enough to see it run. paper:
    the paper's Table II, meant for a GPU."""
    output: Path | None = None
    """Directory of the results. Left out: runs/lambda-sweep-DATASET-PRESET-TIME."""
    ray_address: str = "local"
    """local: a Ray of its own on this machine. auto, or HOST:PORT: join that cluster; the output directory
    must then be one that all its nodes see."""
    resume: bool = False
    """Go on with the sweep in --output: what is finished there is not repeated."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks are trained and measured; auto takes a GPU if Ray has one."""
    plan: bool = False
    """Print the candidates, their FLOPs, the trials and the time they may take, and stop."""
    cpus_per_trial: int = 1
    """CPU cores of a trial, which are its threads too; trials are packed on the cores there are."""
    gpus_per_trial: float = 1.0
    """GPUs of a trial on cuda; 0.5 puts two trials on one GPU."""
    warmup_threads: int = 1
    """CPU threads of the warm-up, which all trials of a seed wait for. Results depend on it in their last
    digits, so it does not follow the number of cores."""
    latency_threads: int = 1
    """CPU threads while latency and memory are measured."""
    hidden_size: int | None = None
    """Hidden size of the supernet (dimensions). Left out: the preset's."""
    inner_size: int | None = None
    """Inner size of its feed-forward networks (dimensions). Left out: the preset's."""
    num_layers: int | None = None
    """Layers of the supernet. Left out: the preset's."""
    num_heads: int | None = None
    """Attention heads. Left out: the preset's."""
    hidden_intensities: tuple[float, ...] = ()
    """Shares of hidden dimensions that the candidates mask, each in [0, 1). Left out: the preset's."""
    inner_intensities: tuple[float, ...] = ()
    """Shares of inner dimensions that the candidates mask, each in [0, 1). Left out: the preset's."""
    gate_layers: Literal[0, 1, 2] | None = None
    """Dense layers of each data-aware gate. Left out: the preset's."""
    max_length: int | None = None
    """Positions of a sequence (items). Left out: the preset's."""
    batch_size: int | None = None
    """Sequences in a batch, of search and retraining. Left out: the preset's."""
    warmup_epochs: int | None = None
    """Epochs of the warm-up. Left out: the preset's."""
    search_epochs: int | None = None
    """The most epochs of a search. Left out: the preset's."""
    retrain_epochs: int | None = None
    """The most epochs of a retraining. Left out: the preset's."""
    patience: int | None = None
    """Epochs without a better validation NDCG@10 after which a retraining ends. Left out: the preset's."""
    accuracy_weight: float | None = None
    """Weight of the cross-entropy in the controllers' loss (no unit); 0 leaves the resource term alone.
    Left out: the preset's."""
    transfer_from: Literal["warm", "searched", "fresh"] | None = None
    """First weights of a retraining: of the seed's warm supernet, so that trials share retrainings, of the
    trial's own searched supernet, or fresh ones. Left out: the preset's."""

    def check(self) -> None:
        """Refuse options that cannot be meant.

        Not done on construction: tyro would wrap the sentence into a box of its own.

        Raises:
            InputError: names the option and its value.
        """
        if self.data is not None and self.dataset != DEFAULT_DATASET:
            raise InputError("give either --dataset or --data, not both")
        for name in ("seeds", "cpus_per_trial", "warmup_threads", "latency_threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{option(name)} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"--seed must be at least 0, got {self.seed}")
        if not self.gpus_per_trial > 0:
            raise InputError(f"--gpus-per-trial must be above 0, got {self.gpus_per_trial}")
        if self.gpus_per_trial > 1 and self.gpus_per_trial != int(self.gpus_per_trial):
            raise InputError(f"--gpus-per-trial above 1 must be a whole number, got {self.gpus_per_trial}")
        _check_tradeoffs(self.tradeoffs)
        if self.resume and self.output is None:
            raise InputError("--resume needs --output: the directory of the sweep to go on with")

    @property
    def data_name(self) -> str:
        """What the data set is called."""
        return self.dataset if self.data is None else self.data.stem

    def result_settings(self) -> dict[str, Any]:
        """The options that results depend on, as JSON values: a resumed sweep must have the same."""
        values = {
            name: value for name, value in dataclasses.asdict(self).items() if name not in _NOT_OF_THE_RESULTS
        }
        values["data"] = None if self.data is None else str(self.data.resolve())
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def command(self) -> str:
        """The shell command that starts this sweep, options at their defaults left out."""
        words = [sys.executable, str(Path(sys.argv[0]).resolve())]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            words.append(option(field.name))
            if isinstance(value, tuple):
                words += [repr(number) for number in value]
            elif not isinstance(value, bool):
                words.append(str(value))
        return shlex.join(words)


def option(name: str) -> str:
    """The command-line option of a field.

    >>> option("cpus_per_trial")
    '--cpus-per-trial'
    """
    return "--" + name.replace("_", "-")


def _check_tradeoffs(tradeoffs: tuple[float, ...]) -> None:
    for tradeoff in tradeoffs:
        if not (tradeoff >= 0 and math.isfinite(tradeoff)):
            raise InputError(f"--tradeoffs must be finite numbers of at least 0, got {tradeoff:g}")
    repeated = [tradeoff for tradeoff in tradeoffs if tradeoffs.count(tradeoff) > 1]
    if repeated:
        raise InputError(f"--tradeoffs has {repeated[0]:g} twice; each lambda is run once per seed")
