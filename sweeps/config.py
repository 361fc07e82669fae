"""What a user asks of a sweep. Imports nothing slow: the command line's help is made from it."""

import dataclasses
import math
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from easrec.errors import InputError
from sweeps.addresses import check_ray_address, check_tracking_uri, masked, with_password
from sweeps.data_options import DataOptions, option
from sweeps.method_options import MethodOptions
from sweeps.storage_url import check_storage_url

__all__ = ["SweepConfig", "SweepOptions", "option"]

_NOT_OF_THE_RESULTS = ("output", "ray_address", "resume", "plan", "tracking_uri", "from_run")
"""Options that a resumed sweep may change."""

_OF_A_REPEAT = ("from_run", "output", "storage", "ray_address", "resume", "plan", "tracking_uri", "data")
"""Options beside --from-run: where the trial is run again, and where its own log lies now."""

_ADDRESSES = ("tracking_uri", "study")
"""Options that may hold a password."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions(DataOptions):
    """Which trials a sweep has, and where they run."""

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
    """Directory of the results. Left out: runs/PIPELINE-DATASET-PRESET-TIME."""
    storage: str | None = None
    """Where results and checkpoints of all stages go: an absolute directory, file:///DIRECTORY,
    s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, which every node reaches; sweeps may share one. Left out: the
    output directory."""
    ray_address: str = "local"
    """local: a Ray of its own on this machine. HOST:PORT: join that cluster; auto: the one that RAY_ADDRESS
    names, or that runs on this machine. Without --storage the output directory must then be one that all its
    nodes see."""
    tracking_uri: str | None = None
    """Where MLflow records: http://HOST:PORT of a server, or a database such as
    postgresql+psycopg://USER@HOST/NAME. Only this process writes there. A password written as *** is that of
    the same address in MLFLOW_TRACKING_URI. Left out: mlflow.db in the output directory."""
    resume: bool = False
    """Go on with the sweep in --output: what is finished there is not repeated."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks are trained and measured; auto takes a GPU if Ray has one."""
    from_run: str | None = None
    """Instead of a sweep: id of the MLflow run of a finished trial in --tracking-uri, or in
    MLFLOW_TRACKING_URI. It is run again with its own settings, recorded there, and compared with what it was.
    Beside it only --data and options of where to run have a place."""
    independent: bool = False
    """Share nothing between trials: each has a warm-up of its own, trains weights and controllers in turn,
    and retrains from its own searched supernet. The naive sweep, to see what sharing saves."""
    halve_after: int | None = None
    """Stop retrainings early that cannot reach the front of accuracy and FLOPs: after so many epochs, and
    after each multiple of them by --halve-factor, one that another network of its seed beats in both goes on
    only if it is among the best by rank. What is stopped depends on which trials came first. Left out: none
    is stopped."""
    halve_factor: int | None = None
    """With --halve-after: each look comes after so many times the epochs of the one before, and 1 in so many
    goes on, besides those that none beats. Left out: 3."""
    plan: bool = False
    """Print the candidates, their FLOPs, the trials, and the time, CPU-hours and GPU-hours that they may
    take, on the cluster of --ray-address if there is one, and stop."""
    cpus_per_trial: int = 1
    """CPU cores of a trial, which are its threads too; trials are packed on the cores there are."""
    gpus_per_trial: float = 1.0
    """GPUs of a trial on cuda; 0.5 puts two trials on one GPU."""
    warmup_threads: int = 1
    """CPU threads of the warm-up, which all trials of a seed wait for. Results depend on it in their last
    digits, so it does not follow the number of cores."""
    latency_threads: int = 1
    """CPU threads while latency and memory are measured."""
    measure_on: str | None = None
    """Device that latency and memory are measured on: cpu, cuda, or a type of accelerator such as A100, of a
    node that was started by `ray start --resources '{"latency": 1}'` and does nothing else meanwhile. Left
    out: where a trial may run."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig(MethodOptions, SweepOptions):
    """Run EASRec once for each lambda and seed, as Ray Tune trials, and find the Pareto front.

    An option left out takes the value of the preset where its help says so.
    """

    def check(self) -> None:
        """Refuse options that cannot be meant.

        Not done on construction: tyro would wrap the sentence into a box of its own.

        Raises:
            InputError: names the option and its value.
        """
        DataOptions.check(self)
        MethodOptions.check(self)
        if self.resume and self.output is None:
            raise InputError("--resume needs --output: the directory of the sweep to go on with")
        for name in ("seeds", "cpus_per_trial", "warmup_threads", "latency_threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{option(name)} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"--seed must be at least 0, got {self.seed}")
        if not self.gpus_per_trial > 0:
            raise InputError(f"--gpus-per-trial must be above 0, got {self.gpus_per_trial}")
        if self.gpus_per_trial > 1 and self.gpus_per_trial != int(self.gpus_per_trial):
            raise InputError(f"--gpus-per-trial above 1 must be a whole number, got {self.gpus_per_trial}")
        self._check_halving()
        _check_tradeoffs(self.tradeoffs)
        if self.independent and self.transfer_from not in (None, "searched"):
            raise InputError(
                f"--independent retrains from each trial's own searched supernet, so --transfer-from "
                f"{self.transfer_from} does not go with it"
            )
        check_ray_address(self.ray_address)
        if self.measure_on is not None and not re.fullmatch(r"[\w.:-]+", self.measure_on):
            raise InputError(
                f"--measure-on must be cpu, cuda or a type of accelerator, got {self.measure_on!r}"
            )
        if self.tracking_uri is not None:
            check_tracking_uri(with_password(self.tracking_uri))
        if self.storage is not None:
            check_storage_url(self.storage)

    def _check_halving(self) -> None:
        if self.halve_after is not None and self.halve_after < 1:
            raise InputError(f"--halve-after must be at least 1 epoch, got {self.halve_after}")
        if self.halve_factor is not None and self.halve_after is None:
            raise InputError("--halve-factor needs --halve-after, the epochs after which to stop first")
        if self.halve_factor is not None and self.halve_factor < 2:
            raise InputError(f"--halve-factor must be at least 2, got {self.halve_factor}")

    def check_repeat(self) -> None:
        """Refuse options beside --from-run that the run itself has: its settings are what is repeated.

        Raises:
            InputError: names the option.
        """
        for field in dataclasses.fields(self):
            if field.name not in _OF_A_REPEAT and getattr(self, field.name) != field.default:
                raise InputError(
                    f"{option(field.name)} has no place beside --from-run, which takes settings from the run"
                )

    def result_settings(self) -> dict[str, Any]:
        """The options that results depend on, as JSON values: a resumed sweep must have the same."""
        values = {
            name: value for name, value in dataclasses.asdict(self).items() if name not in _NOT_OF_THE_RESULTS
        }
        values["data"] = None if self.data is None else str(self.data.resolve())
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def command(self) -> str:
        """The shell command that starts this sweep, without options at their defaults; it hides passwords."""
        words = [sys.executable, str(Path(sys.argv[0]).resolve())]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value == field.default or (self.from_run is not None and field.name not in _OF_A_REPEAT):
                continue
            words.append(option(field.name))
            if isinstance(value, tuple):
                words += [repr(part) if isinstance(part, float) else str(part) for part in value]
            elif field.name in _ADDRESSES:
                words.append(masked(value))
            elif not isinstance(value, bool):
                words.append(str(value))
        return shlex.join(words)


def _check_tradeoffs(tradeoffs: tuple[float, ...]) -> None:
    for tradeoff in tradeoffs:
        if not (tradeoff >= 0 and math.isfinite(tradeoff)):
            raise InputError(f"--tradeoffs must be finite numbers of at least 0, got {tradeoff:g}")
    repeated = [tradeoff for tradeoff in tradeoffs if tradeoffs.count(tradeoff) > 1]
    if repeated:
        raise InputError(f"--tradeoffs has {repeated[0]:g} twice; each lambda is run once per seed")
