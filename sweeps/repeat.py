"""One recorded trial again: same settings, and the new figures beside the recorded ones."""

import dataclasses
import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

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
from sweeps.records import flatten
from sweeps.source import RESULTS, open_run
from sweeps.store import code_version
from sweeps.summary import counted
from sweeps.sweep import run_sweep

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PARAMS = "params.json"
_MEASURED_TIMES = ("_s", "_mib")
"""Endings of metrics that differ from one run to the next: times and memory."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A finished trial as MLflow has it, ready to be repeated."""

    run_id: str
    config: SweepConfig
    """Options of a sweep of this trial alone."""
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


def run_repeat(config: SweepConfig, *, console: Console | None = None) -> int:
    """Repeat the trial of --from-run and print in what the figures differ; returns the exit status.

    0: every figure that is computed, rather than timed, is the recorded one to the last digit. 1: some
    differ, or the trial failed. 130: interrupted.

    Raises:
        InputError: something that the user can put right; nothing has been started then.
    """
    assert config.from_run is not None
    console = console or Console(width=None if sys.stdout.isatty() else 120)
    uri = with_password(config.tracking_uri or os.environ.get(TRACKING_VARIABLE) or "")
    if not uri:
        raise InputError(
            "--from-run needs the MLflow store that has the run: give --tracking-uri, or set "
            f"{TRACKING_VARIABLE}"
        )
    check_tracking_uri(uri)
    config = dataclasses.replace(config, tracking_uri=uri)
    with tempfile.TemporaryDirectory(prefix="easrec-repeat-") as scratch:
        recorded = _read(config, uri, Path(scratch))

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say(
        f"repeating run {recorded.run_id}: lambda {recorded.config.tradeoffs[0]:g}, "
        f"seed {recorded.config.seed}"
    )
    output = recorded.config.output
    assert output is not None  # `_read` has named one
    status = run_sweep(recorded.config, console=console, preset=recorded.preset, data=recorded.data)
    if config.plan or not (output / RESULTS).is_file():
        return status
    row = pd.read_parquet(output / RESULTS).iloc[0]
    found = differences(recorded.metrics, {str(name): value for name, value in row.items()})
    for line in _said(recorded, found):
        say(line)
    return 1 if found else status


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
        or name == "flops_log10"
    )


def _said(recorded: Recorded, found: list[Difference]) -> list[str]:
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


def _read(config: SweepConfig, uri: str, scratch: Path) -> Recorded:
    import requests
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        with quiet("mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store", "alembic"):
            return _read_trial(MlflowClient(tracking_uri=uri), config, scratch)
    except (MlflowException, requests.RequestException) as error:
        reason = without_credentials(" ".join(str(error).split()), uri)[:300]
        raise InputError(f"the MLflow store of --from-run cannot be read ({reason})") from error


def _read_trial(client: "MlflowClient", config: SweepConfig, scratch: Path) -> Recorded:
    run_id = str(config.from_run)
    source, trial_id = open_run(client, run_id, scratch, log=config.data, option="--from-run")
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
    preset = preset_from(params, like=preset_of(facts.config), where=f"run {run_id}")
    return Recorded(
        run_id=run_id,
        config=dataclasses.replace(
            facts.config,
            tradeoffs=(float(params["tradeoff"]),),
            seeds=1,
            seed=int(params["seed"]),
            device=params["device"],
            data=config.data or facts.config.data,
            output=config.output or Path("runs", f"repeat-{run_id[:8]}"),
            storage=config.storage,
            ray_address=config.ray_address,
            tracking_uri=config.tracking_uri,
            resume=config.resume,
            plan=config.plan,
            from_run=run_id,
        ),
        preset=preset,
        data=source.data,
        metrics=dict(run.data.metrics),
        program=run.data.tags.get("code_version", ""),
        device=str(params["device"]),
    )


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
        if not name.startswith(f"{group}."):
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
