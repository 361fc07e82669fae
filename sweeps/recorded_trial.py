"""A trial that MLflow recorded, read back to be run again and to be compared with what comes out now."""

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easrec.errors import InputError
from easrec.models.architecture import CandidateSpace
from easrec.nas.controllers import TemperatureSchedule
from easrec.nas.search import SearchConfig
from easrec.retrain import RetrainConfig
from sweeps.addresses import TRACKING_VARIABLE, check_tracking_uri, with_password, without_credentials
from sweeps.config import SweepConfig
from sweeps.data import SweepData
from sweeps.mlflow_store import quiet
from sweeps.plan import preset_of
from sweeps.presets import Preset
from sweeps.records import MEASURED, flatten
from sweeps.source import open_run
from sweeps.store import code_version
from sweeps.summary import counted
from sweeps.views import FOR_MLFLOW

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PARAMS = "params.json"
_MEASURED_TIMES = ("_s", "_mib")
"""Endings of metrics that differ from one run to the next: times and memory."""


@dataclass(frozen=True, slots=True)
class RecordedTrial:
    """A finished trial as MLflow has it, ready to be repeated."""

    run_id: str
    config: SweepConfig
    """Options of a sweep of this trial alone, where it trains; not where results go."""
    preset: Preset
    """The trial's own settings, whatever presets mean today."""
    data: SweepData
    metrics: dict[str, float]
    program: str
    """The `code_version` that made it; empty where nobody says."""
    device: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric in which two runs of a trial differ."""

    name: str
    recorded: float
    again: float
    """NaN where the new run has none."""


def tracking_store(tracking_uri: str | None) -> str:
    """The whole address of the store that --from-run reads.

    Raises:
        InputError: none is named, or it can be none.
    """
    uri = with_password(tracking_uri or os.environ.get(TRACKING_VARIABLE) or "")
    if not uri:
        raise InputError(
            "--from-run needs the MLflow store that has the run: give --tracking-uri, or set "
            f"{TRACKING_VARIABLE}"
        )
    check_tracking_uri(uri)
    return uri


def read_trial(run_id: str, uri: str, *, log: Path | None) -> RecordedTrial:
    """A finished trial of an MLflow store, with the data that it was trained on.

    Args:
        run_id: of its run.
        uri: of the store.
        log: where the sweep's own log lies now, if it is not where it was.

    Raises:
        InputError: the store cannot be read, it is no run of a finished trial, its data are gone or others
            now, or its settings do not fit this version.
    """
    import requests
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        with (
            quiet("mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store", "alembic"),
            tempfile.TemporaryDirectory(prefix="easrec-repeat-") as scratch,
        ):
            return _read_trial(MlflowClient(tracking_uri=uri), run_id, Path(scratch), log)
    except (MlflowException, requests.RequestException) as error:
        reason = without_credentials(" ".join(str(error).split()), uri)[:300]
        raise InputError(f"the MLflow store of --from-run cannot be read ({reason})") from error


def _read_trial(client: "MlflowClient", run_id: str, scratch: Path, log: Path | None) -> RecordedTrial:
    source, trial_id = open_run(client, run_id, scratch, log=log, option="--from-run")
    if trial_id is None:
        raise InputError(f"--from-run {run_id} is the run of a whole sweep; name that of one of its trials")
    run = client.get_run(run_id)
    try:
        path = Path(client.download_artifacts(run_id, _PARAMS, str(scratch)))
    except OSError as error:
        raise InputError(
            f"run {run_id} has no {_PARAMS} that can be read ({error}); its store may have been moved"
        ) from error
    params: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    facts = source.facts
    return RecordedTrial(
        run_id=run_id,
        config=dataclasses.replace(
            facts.config,
            tradeoffs=(float(params["tradeoff"]),),
            seeds=1,
            seed=int(params["seed"]),
            device=params["device"],
            data=log or facts.config.data,
        ),
        preset=preset_from(params, like=preset_of(facts.config), where=f"run {run_id}"),
        data=source.data,
        metrics=dict(run.data.metrics),
        program=run.data.tags.get("code_version", ""),
        device=str(params["device"]),
    )


def differences(recorded: Mapping[str, float], again: Mapping[str, Any]) -> list[Difference]:
    """The metrics in which two runs of a trial differ in any digit, but for times and memory."""
    found = []
    for name in sorted(recorded):
        if is_computed(name):
            value = again.get(name)
            number = float(value) if isinstance(value, int | float) else math.nan
            if number != recorded[name]:
                found.append(Difference(name, recorded[name], number))
    return found


def is_computed(name: str) -> bool:
    """Whether a metric follows from the settings alone, unlike times, memory and the curves of epochs.

    >>> [is_computed(name) for name in ("valid/full/ndcg_at_10", "latency_ms_p50", "search_s", "search/loss")]
    [True, False, False, False]
    """
    return not (
        name.startswith(("latency", "warmup/", "search/", "retrain/"))
        or name.endswith(_MEASURED_TIMES)
        or name in MEASURED
        or name in FOR_MLFLOW
    )


def comparison_text(recorded: RecordedTrial, found: list[Difference]) -> list[str]:
    """What there is to say of the differences, if there are any, in lines."""
    number = sum(is_computed(name) for name in recorded.metrics)
    if not found:
        return [
            f"\nequal to run {recorded.run_id} in every digit of all {counted(number, 'computed figure')}"
        ]
    lines = [f"\n{len(found)} of {counted(number, 'computed figure')} differ from run {recorded.run_id}:"]
    lines += [
        f"  {difference.name:32} recorded {difference.recorded:.10g}, now {difference.again:.10g} "
        f"({difference.again - difference.recorded:+.2g})"
        for difference in found
    ]
    if recorded.program and recorded.program != code_version():
        lines.append(f"the run is by easrec {recorded.program}, this is {code_version()}: that may be why")
    elif recorded.device != "cpu":
        lines.append(f"the run is by {recorded.device}, which adds in no fixed order: that may be why")
    else:
        lines.append("program and settings are the same: another processor or library may be why")
    return lines


def preset_from(params: Mapping[str, Any], *, like: Preset, where: str) -> Preset:
    """The settings of a trial as its parameters say.

    Args:
        params: flat, as `flatten` made them.
        like: says what parameters do not: the number of users.
        where: what the trial is called in errors.

    Raises:
        InputError: they do not fit the settings of this version.
    """
    try:
        search = _nested(params, "search")
        preset = dataclasses.replace(
            like,
            space=CandidateSpace.from_dict(_nested(params, "space")),
            search=SearchConfig(**{**search, "temperature": TemperatureSchedule(**search["temperature"])}),
            retrain=RetrainConfig(**_nested(params, "retrain")),
            transfer_from=params["transfer_from"],
            tradeoffs=(float(params["tradeoff"]),),
            latency_repeats=int(params.get("profile.repeats", like.latency_repeats)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the settings of {where} do not fit this version of easrec ({error}); use the version that "
            "recorded it"
        ) from error
    again = flatten(
        {
            "space": preset.space.to_dict(),
            "search": preset.search.to_dict(),
            "retrain": preset.retrain.to_dict(),
        }
    )
    differing = [name for name, value in again.items() if params.get(name) != value]
    if differing:
        raise InputError(
            f"{where} has {differing[0]} {params.get(differing[0])!r}, which this version of easrec reads as "
            f"{again[differing[0]]!r}; use the version that recorded it"
        )
    return preset


def _nested(params: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The inverse of `flatten` for the settings below a name.

    >>> _nested({"search.seed": 0, "search.temperature.rate": "none", "search.betas": "[0.5]"}, "search")
    {'seed': 0, 'temperature': {'rate': None}, 'betas': [0.5]}
    """
    found: dict[str, Any] = {}
    for name, value in params.items():
        # What a trial came to use, such as smaller micro-batches, is none of its settings.
        if not name.startswith(f"{group}.") or name.endswith("_used"):
            continue
        *parents, last = name.removeprefix(f"{group}.").split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if value == "none":
        return None
    if isinstance(value, str) and value.startswith("["):
        return json.loads(value)
    return value
