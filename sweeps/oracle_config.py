"""What a user asks of the oracle. Imports nothing slow: the command line's help is made from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from easrec.errors import InputError
from easrec.files import what_is_at
from sweeps.config import SweepConfig

_RESULTS = "results.parquet"

ELSEWHERE = {
    option: f"{option} is an option of lambda_sweep.py: the oracle retrains every architecture from the warm "
    "supernet, and measures nothing"
    for option in (
        "--tradeoffs",
        "--plan",
        "--from-run",
        "--independent",
        "--tracking-uri",
        "--measure-on",
        "--latency-threads",
        "--transfer-from",
        "--halve-after",
        "--halve-factor",
    )
}
"""Options of a sweep that an oracle has not, and what is said of them."""


@dataclass(frozen=True, kw_only=True)
class OracleConfig(SweepConfig):
    """Retrain every architecture of a space from its warm supernet, and judge sweeps by what they missed.

    Space, data, seeds and settings are given as to lambda_sweep.py: those of the sweeps to be judged.
    """

    sweeps: tuple[Path, ...] = ()
    """Directories of finished sweeps over the same space and data, each compared with the true front and with
    random search at equal cost."""
    draws: int = 2000
    """Random searches that a sweep is compared with; they cost nothing, as all results are known."""

    # Of a sweep alone; the oracle retrains from warm supernets, and measures nothing.
    tradeoffs: Annotated[tuple[float, ...], tyro.conf.Suppress, tyro.conf.Fixed] = ()
    plan: Annotated[bool, tyro.conf.Suppress, tyro.conf.Fixed] = False
    from_run: Annotated[str | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    independent: Annotated[bool, tyro.conf.Suppress, tyro.conf.Fixed] = False
    tracking_uri: Annotated[str | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    measure_on: Annotated[str | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    latency_threads: Annotated[int, tyro.conf.Suppress, tyro.conf.Fixed] = 1
    halve_after: Annotated[int | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    halve_factor: Annotated[int | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    transfer_from: Annotated[
        Literal["warm", "searched", "fresh"] | None, tyro.conf.Suppress, tyro.conf.Fixed
    ] = None

    def check(self) -> None:
        """Refuse options that cannot be meant; `InputError` names the option and its value."""
        SweepConfig.check(self)
        if self.draws < 1:
            raise InputError(f"--draws must be at least 1, got {self.draws}")
        for sweep in self.sweeps:
            if what_is_at(sweep / _RESULTS) != "file":
                raise InputError(
                    f"--sweeps {sweep} is not the directory of a finished sweep: it has no {_RESULTS}"
                )
        if len(set(self.sweeps)) < len(self.sweeps):
            raise InputError("--sweeps names a directory twice")

    def result_settings(self) -> dict[str, Any]:
        """As of a sweep; which sweeps are judged may change when an oracle is resumed."""
        return {
            name: value
            for name, value in SweepConfig.result_settings(self).items()
            if name not in ("sweeps", "draws")
        }
