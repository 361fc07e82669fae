"""A finished sweep to take networks from: its directory, or its runs in MLflow.

Both hold the same files; what differs is where they are read from.
"""

import dataclasses
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from easrec.data.datasets import KNOWN_DATASETS
from easrec.data.items import Items
from easrec.errors import InputError
from easrec.files import what_is_at
from easrec.models.architecture import Architecture
from sweeps.config import SweepConfig, option
from sweeps.coordinator import Coordinator
from sweeps.data import ITEMS, SweepData, load_data
from sweeps.data_options import DEFAULT_DATASET
from sweeps.objects import open_storage
from sweeps.output import STORE, SWEEP
from sweeps.plan import build_trials, preset_of
from sweeps.presets import Preset
from sweeps.remote_store import RemoteStore
from sweeps.store import Store, content_key
from sweeps.trial import NETWORK, SUPERNET, TrialConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RESULTS = "results.parquet"
_NETWORK_FILES = ("network.json", "weights.safetensors")


@dataclass(frozen=True, slots=True)
class SweepFacts:
    """What sweep.json says."""

    sweep_id: str
    config: SweepConfig
    """What the user asked for."""
    licence: str
    """Terms of use of the data."""
    data_checksum: str
    program: str
    """The `code_version` that made the results."""
    device: str
    preset_key: str
    """`content_key` of the preset with the user's changes in it."""

    @classmethod
    def parse(cls, text: str, where: str) -> "SweepFacts":
        """Read the text of a sweep.json.

        Raises:
            InputError: it is no such text, or one of another version of this program.
        """
        try:
            values = json.loads(text)
            settings: dict[str, Any] = values["settings"]
            facts = cls(
                sweep_id=values["sweep_id"],
                config=_config(settings, where),
                licence=values["licence"],
                data_checksum=settings["data checksum"],
                program=settings["program"],
                device=settings["device"],
                preset_key=settings["preset in full"],
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"{where} does not say what its sweep is ({type(error).__name__}: {error}): another version "
                "of easrec wrote it; use that version, or run the sweep again"
            ) from error
        return facts

    def has_same_preset(self) -> bool:
        """Whether this version's preset is the one that the sweep was made with."""
        return content_key(dataclasses.asdict(preset_of(self.config))) == self.preset_key

    def preset(self) -> Preset:
        """The preset of the sweep, for training as it trained.

        Raises:
            InputError: this version's preset of that name is another one.
        """
        if not self.has_same_preset():
            raise InputError(
                f"the preset {self.config.preset!r} has changed since the sweep was made by {self.program}; "
                "use that version of easrec, or run the sweep again"
            )
        return preset_of(self.config)


def _config(settings: Mapping[str, Any], where: str) -> SweepConfig:
    known = {option(field.name): field.name for field in dataclasses.fields(SweepConfig)}
    unknown = sorted(name for name in settings if name.startswith("--") and name not in known)
    if unknown:
        raise InputError(
            f"{where} has an option {unknown[0]} that this version of easrec does not know; use the version "
            "that made the sweep"
        )
    values: dict[str, Any] = {
        known[name]: tuple(value) if isinstance(value, list) else value
        for name, value in settings.items()
        if name in known
    }
    if values.get("data") is not None and option("split") not in settings:
        # Before there was a choice of splits, --dataset had its default beside a log of one's own.
        values["dataset"] = None
    if values.get("data") is not None:
        values["data"] = Path(values["data"])
    return SweepConfig(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A trained network of a sweep, and what is known of it."""

    trial_id: str | None
    """The trial that derived it, or None for one that was retrained on its own."""
    tradeoff: float | None
    """The trial's lambda, or None likewise."""
    seed: int
    architecture: Architecture
    network: Path
    """A directory that `easrec.models.saving.load_network` reads."""
    metrics: Mapping[str, float]
    """Its final figures, under the names of results.parquet."""
    transfer_from: str
    """Where its retraining had its first weights from, see `sweeps.trial.TrialConfig`."""
    program: str
    """The `code_version` that trained it."""
    key: str | None = None
    """Of a network retrained on its own: the key of its retraining."""


class SweepSource(ABC):
    """Reads a finished sweep."""

    def __init__(self, where: str, *, log: Path | None = None) -> None:
        """Read a sweep.

        Args:
            where: what users call it: a directory or a run.
            log: where the sweep's own log lies now, if it is not where it was.
        """
        self.where = where
        self._log = log

    @abstractmethod
    def file(self, name: str) -> Path:
        """A file of the whole sweep, such as results.parquet; `InputError` if it is missing."""

    @abstractmethod
    def network(self, trial_id: str, architecture: Architecture) -> Path:
        """The directory of the network of a finished trial; `InputError` if it is missing."""

    @abstractmethod
    def supernet(self, trial: TrialConfig) -> Path:
        """The file of the warm supernet that a trial began from; `InputError` if it is missing."""

    @cached_property
    def facts(self) -> SweepFacts:
        """What the sweep is."""
        path = self.file(SWEEP)
        return SweepFacts.parse(path.read_text(encoding="utf-8"), f"{SWEEP} of {self.where}")

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per trial; see `sweeps.results.results_frame` and `sweeps.report.write_results`."""
        return pd.read_parquet(self.file(RESULTS))

    @cached_property
    def items(self) -> Items:
        """What the networks' item ids stand for."""
        return Items.load(self.file(ITEMS))

    @cached_property
    def data(self) -> SweepData:
        """What the sweep was trained on.

        Raises:
            InputError: it cannot be read, or is not what the sweep was trained on.
        """
        config = self.facts.config
        if self._log is not None:
            dataset = config.dataset
            if config.data is None:  # a data set known by name, or a file that was given as one
                dataset = dataset or DEFAULT_DATASET
                dataset = dataset if dataset in KNOWN_DATASETS else None
            config = dataclasses.replace(config, dataset=dataset, data=self._log)
        elif config.data is not None and what_is_at(config.data) == "nothing":
            raise InputError(
                f"the log of the sweep in {self.where} is no longer at {config.data}; say by --data where "
                "it is"
            )
        data = load_data(config, preset_of(config))
        if data.split.checksum != self.facts.data_checksum:
            raise InputError(
                f"the data {data.split.name!r} is not what the sweep in {self.where} was trained on "
                f"(checksum {data.split.checksum[:12]}, not {self.facts.data_checksum[:12]}); give the same "
                "log by --data"
            )
        return data

    def trained(self, trial_id: str) -> Trained:
        """The network of a finished trial."""
        (row,) = self.frame[self.frame["trial_id"] == trial_id].to_dict("records")
        names = [field.name for field in dataclasses.fields(Architecture)]
        # A table with failed trials has floats where it would have whole numbers.
        architecture = Architecture.from_dict(
            {name: int(row[name]) if isinstance(row[name], float) else row[name] for name in names}
        )
        metrics = {
            str(name): value
            for name, value in row.items()
            if isinstance(value, float) and name not in ("tradeoff", "seed", *names) and not math.isnan(value)
        }
        return Trained(
            trial_id=trial_id,
            tradeoff=float(row["tradeoff"]),
            seed=int(row["seed"]),
            architecture=architecture,
            network=self.network(trial_id, architecture),
            metrics=metrics,
            transfer_from=preset_of(self.facts.config).transfer_from,
            program=self.facts.program,
        )

    def trials(self, code_version: str) -> list[TrialConfig]:
        """The trials of the sweep, as if made by a version of the program."""
        facts = self.facts
        return build_trials(
            facts.config,
            facts.preset(),
            self.data.split,
            device=facts.device,
            code_version=code_version,
        )


class SweepDirectory(SweepSource):
    """A sweep in the directory that it was written to, wherever that lies now."""

    def __init__(self, path: Path, *, log: Path | None = None) -> None:
        super().__init__(str(path), log=log)
        self.path = path.resolve()

    @cached_property
    def store(self) -> Store:
        """Where the results of its stages lie.

        Raises:
            InputError: the sweep has a storage of its own, which cannot be read.
        """
        storage = self.facts.config.storage
        if storage is None:
            return Store(self.path / STORE)
        return RemoteStore(open_storage(storage, writable=False), Coordinator())

    def file(self, name: str) -> Path:
        """See `SweepSource.file`."""
        path = self.path / name
        if what_is_at(path) != "file":
            if name == SWEEP or what_is_at(self.path / SWEEP) != "file":
                raise InputError(f"{self.where} holds no sweep: {name} is missing")
            raise InputError(
                f"the sweep in {self.where} has no {name}: it has not finished, or an older version made it; "
                "go on with it by lambda_sweep.py --resume"
            )
        return path

    def network(self, trial_id: str, architecture: Architecture) -> Path:
        """See `SweepSource.network`."""
        trials = {trial.trial_id: trial for trial in self.trials(self.facts.program)}
        if trial_id not in trials:
            raise InputError(
                f"the settings of the sweep in {self.where} mean something else in this version of easrec; "
                f"use {self.facts.program}, or name the trial's run by --run"
            )
        entry = self.store.entry("retrain", trials[trial_id].retrain_key(architecture))
        return entry.path(NETWORK)

    def supernet(self, trial: TrialConfig) -> Path:
        """See `SweepSource.supernet`."""
        path = self.store.entry("warm", trial.warm_key).path(SUPERNET)
        if not path.is_file():
            raise InputError(f"the warm supernet of seed {trial.seed} is missing: there is no {path}")
        return path


class SweepRun(SweepSource):
    """A sweep as its parent run in MLflow has it; artifacts are downloaded when they are asked for."""

    def __init__(self, client: "MlflowClient", run: "Run", scratch: Path, *, log: Path | None = None) -> None:
        """Read the sweep of a parent run.

        Args:
            client: of the store that has the run.
            run: what `SweepRecorder` made for the whole sweep.
            scratch: an empty directory for downloads.
            log: as for `SweepSource`.
        """
        super().__init__(f"run {run.info.run_id}", log=log)
        self.client = client
        self.run = run
        self.scratch = scratch

    def file(self, name: str) -> Path:
        """See `SweepSource.file`."""
        return self._download(self.run.info.run_id, name)

    def network(self, trial_id: str, architecture: Architecture) -> Path:
        """See `SweepSource.network`."""
        run = find_trial(self.client, self.run.info.experiment_id, self.facts.sweep_id, trial_id)
        if run is None:
            raise InputError(f"{self.where} has no child run of trial {trial_id} any more; pick another")
        for name in _NETWORK_FILES:
            path = self._download(run.info.run_id, name)
        return path.parent

    def supernet(self, trial: TrialConfig) -> Path:
        """See `SweepSource.supernet`."""
        return self.file(f"supernet-seed{trial.seed}.safetensors")

    def _download(self, run_id: str, name: str) -> Path:
        from mlflow.exceptions import MlflowException

        path = self.scratch / run_id / name
        if path.is_file():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return Path(self.client.download_artifacts(run_id, name, str(path.parent)))
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"run {run_id} has no artifact {name} that can be read ({reason}); if the sweep has not "
                "finished, go on with it by lambda_sweep.py --resume; if its directory has been moved, name "
                "that by --output alone"
            ) from error


def find_trial(client: "MlflowClient", experiment_id: str, sweep_id: str, trial_id: str) -> "Run | None":
    """The run of a trial of a sweep, or None."""
    filters = f"tags.`easrec.sweep_id` = '{sweep_id}' and tags.`easrec.trial_id` = '{trial_id}'"
    found = client.search_runs([experiment_id], filters, max_results=1)
    return found[0] if found else None


def open_run(
    client: "MlflowClient",
    run_id: str,
    scratch: Path,
    *,
    log: Path | None = None,
    option: str = "--run",
) -> tuple[SweepRun, str | None]:
    """The sweep that a run belongs to, and the trial whose run it is, if it is one.

    Args:
        client: of the store.
        run_id: of the run.
        scratch: as for `SweepRun`.
        log: as for `SweepSource`.
        option: the option that named the run.

    Raises:
        InputError: there is no such run, or it is of no sweep.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        reason = error.message.rstrip(".")
        raise InputError(f"{option} {run_id}: {reason}; take an id from the MLflow UI") from error
    kind = run.data.tags.get("easrec.kind")
    if kind == "sweep":
        return SweepRun(client, run, scratch, log=log), None
    if kind == "configuration":
        raise InputError(
            f"run {run_id} holds the means of several trials; name one of those by {option}: they have the "
            "same tag architecture_id"
        )
    if kind != "trial":
        raise InputError(
            f"run {run_id} is neither a sweep of easrec nor a trial of one; name another {option}"
        )
    if run.info.status != "FINISHED":
        tags = run.data.tags
        because = tags.get("easrec.error", f"its status is {run.info.status}")
        if "easrec.stopped" in tags:
            because = f"it was stopped early: {tags['easrec.stopped']}"
        raise InputError(f"the trial of run {run_id} has no network: {because}")
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    return SweepRun(client, parent, scratch, log=log), run.data.tags["easrec.trial_id"]
