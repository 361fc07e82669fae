"""What a user asks of a report. Imports nothing slow: the command line's help is made from it."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from easrec.errors import InputError
from easrec.files import what_is_at
from sweeps.addresses import TRACKING_VARIABLE, existing_store
from sweeps.data_options import option
from sweeps.output import SWEEP, noted_tracking_uri

DATABASE = "mlflow.db"
"""The MLflow store in the directory of a sweep."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write a page about the trials of an MLflow experiment: fronts, intervals, what lambda does, and the
    best network within a budget.

    Name the store by --tracking-uri, or a sweep by --output. The page is one file that needs no network.
    """

    experiment: str = "easrec"
    """Name of the MLflow experiment."""
    tracking_uri: str | None = None
    """MLflow store that has it: sqlite:////PATH/mlflow.db, http://HOST:PORT, or a database's address. Left
    out: that of the sweep in --output, else MLFLOW_TRACKING_URI."""
    output: Path | None = None
    """Directory of a sweep: the report is of its trials alone."""
    sweeps: tuple[str, ...] = ()
    """Names or run ids of sweeps of the experiment: the report is of their trials alone. Left out: all."""
    dataset: str | None = None
    """Name of the data set, where the experiment has trials on several."""
    max_latency_ms: float | None = None
    """Say which network is the most accurate with a median latency of at most so many milliseconds."""
    max_flops: float | None = None
    """Say which network is the most accurate with at most so many FLOPs for one forward pass, such as 2e6.
    With --max-latency-ms it has to keep both."""
    rank_again: bool = False
    """Rank the targets anew with the networks of trials that kept no ranks (earlier versions kept none), so
    that networks can be compared user by user. Takes the data and seconds for each network."""
    data: Path | None = None
    """Of --rank-again: where the sweep's own log lies now, if it has moved."""
    to: Path | None = None
    """The page to write. Left out: report.html in --output, else report-EXPERIMENT.html here."""

    def check(self) -> None:
        """Refuse options that cannot be meant.

        Raises:
            InputError: names the option and its value.
        """
        for name in ("max_latency_ms", "max_flops"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(f"{option(name)} must be above 0, got {value:g}")
        if self.output is not None and what_is_at(self.output / SWEEP) != "file":
            raise InputError(
                f"--output {self.output} holds no sweep: {SWEEP} is missing; name that of a sweep"
            )
        if self.output is not None and self.sweeps:
            raise InputError("give either --output or --sweeps, not both")
        if self.data is not None and not self.rank_again:
            raise InputError("--data goes with --rank-again; nothing else reads the log")
        if self.to is not None and what_is_at(self.to) == "directory":
            raise InputError(f"--to {self.to} is a directory; name the page to write")
        self.store_uri()

    def store_uri(self) -> str:
        """The MLflow store that the options name.

        Raises:
            InputError: they name none, its file is missing, it has a form that MLflow 3 refuses, or its
                password is not known.
        """
        uri = self.tracking_uri
        if uri is None and self.output is not None:
            uri = noted_tracking_uri(self.output)
            database = self.output.resolve() / DATABASE
            if uri is None and what_is_at(database) != "file":
                raise InputError(
                    f"the sweep in {self.output} has not been recorded: {DATABASE} is missing; go on with it "
                    "by lambda_sweep.py --resume, or name its store by --tracking-uri"
                )
            uri = uri or f"sqlite:///{database}"
        uri = uri or os.environ.get(TRACKING_VARIABLE)
        if not uri:
            raise InputError(
                f"name the MLflow store by --tracking-uri or {TRACKING_VARIABLE}, or a sweep by --output"
            )
        return existing_store(uri)

    def page(self) -> Path:
        """The file to write."""
        if self.to is not None:
            return self.to
        if self.output is not None:
            return self.output / "report.html"
        kept = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in self.experiment)
        return Path(f"report-{kept}.html")
