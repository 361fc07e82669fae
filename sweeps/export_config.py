"""What a user asks of an export. Imports nothing slow: the command line's help is made from it."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from easrec.errors import InputError
from easrec.files import what_is_at
from sweeps.addresses import TRACKING_VARIABLE, existing_store, masked
from sweeps.output import SWEEP, noted_tracking_uri


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Make a folder that can be served of a network of a finished sweep, and register it in MLflow.

    Name the sweep by --output or --run, and the network by --pick, --architecture, or the run of a trial.
    """

    output: Path | None = None
    """Directory of the sweep."""
    run: str | None = None
    """Instead: id of an MLflow run, of a sweep or of one of its trials. Nothing but the MLflow store is
    needed then."""
    tracking_uri: str | None = None
    """MLflow store with the runs and the model registry: sqlite:////PATH/mlflow.db, http://HOST:PORT, or a
    database's address. Left out: the one that the sweep of --output was recorded in, else
    MLFLOW_TRACKING_URI."""
    pick: str | None = None
    """knee: the bend of the front of accuracy against FLOPs. best: the most accurate. max-latency-ms=X: the
    most accurate with a median latency of at most X milliseconds. All by validation. Left out: knee, unless
    --run or --architecture names the network."""
    architecture: str | None = None
    """Another network instead: LAYERSxHIDDEN/INNER as the sweep's table writes it, such as 2x32/128, or an
    architecture_id. One that no trial derived is retrained from the sweep's warm supernet."""
    seed: int | None = None
    """Seed of --architecture. Left out: the best on validation of those that the sweep trained, or the
    sweep's first."""
    to: Path | None = None
    """Folder to make. Left out: export/ARCHITECTURE-seedN in the directory of the sweep, or
    runs/exports/RUN/ARCHITECTURE-seedN with --run alone."""
    overwrite: bool = False
    """Replace a bundle that is in --to already; anything else there is never replaced."""
    name: str | None = None
    """Name in the model registry. Left out: easrec-DATASET."""
    alias: str | None = None
    """Registry alias to put on the version, such as champion; it is taken from the version that has it. Left
    out: no alias changes."""
    no_register: bool = False
    """Make the folder and leave MLflow alone."""
    data: Path | None = None
    """Where the sweep's own log lies now, if it has moved; needed for the intervals of the model card."""

    def check(self) -> None:
        """Refuse options that cannot be meant; `InputError` names the option and its value."""
        if self.output is None and self.run is None:
            raise InputError("name a sweep by --output DIR, or a run by --run RUN_ID")
        if self.output is not None and what_is_at(self.output / SWEEP) != "file":
            raise InputError(
                f"--output {self.output} holds no sweep: {SWEEP} is missing; name that of a sweep"
            )
        if self.to is not None and not self.overwrite and _in_use(self.to):
            raise InputError(
                f"--to {self.to} is there already; replace a bundle by --overwrite, or name another folder"
            )
        if self.pick is not None and self.architecture is not None:
            raise InputError("give either --pick or --architecture, not both")
        if self.seed is not None and self.architecture is None:
            raise InputError("--seed goes with --architecture; --pick takes the best seed on validation")
        if self.name is not None and (not self.name.strip() or set("/:") & set(self.name)):
            raise InputError(
                f"--name must be a name without the characters / and :, which MLflow takes apart, got "
                f"{self.name!r}"
            )
        if self.no_register:
            for option, value in (("--name", self.name), ("--alias", self.alias)):
                if value is not None:
                    raise InputError(f"{option} is of the registry, which --no-register leaves alone")
        if self.run is not None:
            self.store_uri()

    def store_uri(self) -> str | None:
        """The MLflow store that the options name, or None where it is the database in --output.

        Raises:
            InputError: it has a form that MLflow 3 refuses, its file is missing, --run comes without any, or
                its password is not known.
        """
        uri = self.tracking_uri
        if uri is None and self.output is None:
            uri = os.environ.get(TRACKING_VARIABLE)
            if not uri:
                raise InputError(
                    f"--run needs the MLflow store that has the run: give --tracking-uri, --output, or set "
                    f"{TRACKING_VARIABLE}"
                )
        if uri is None and self.output is not None:
            uri = noted_tracking_uri(self.output)
        if uri is None:
            return None
        return existing_store(uri)

    @staticmethod
    def command() -> str:
        """The shell command that this process was started by; it hides passwords."""
        return shlex.join([sys.executable, str(Path(sys.argv[0]).resolve()), *map(masked, sys.argv[1:])])


def _in_use(path: Path) -> bool:
    there = what_is_at(path)
    try:
        return there == "file" or (there == "directory" and any(path.iterdir()))
    except OSError as error:
        raise InputError(f"--to {path} cannot be read ({error.strerror or error}); choose another") from error
