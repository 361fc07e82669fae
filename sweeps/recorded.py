"""The trials of an MLflow experiment as a table: what a report is made from, whoever recorded them where."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.nas.search_config import SearchConfig
from sweeps.addresses import masked
from sweeps.choice import LATENCY, selection_metric
from sweeps.records import MEASURED
from sweeps.summary import counted
from sweeps.views import FOR_MLFLOW

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE = 1000
_FLOPS = "flops"
_PLACE = ("measured.device", "measured.threads", "measured.host", "measured.cpu", "measured.gpu")
"""Tags that say where a trial's network was measured."""


@dataclass(frozen=True, slots=True)
class RecordedSweep:
    """The run of a whole sweep."""

    sweep_id: str
    run_id: str
    name: str
    status: str
    """Of the run, in MLflow's words."""
    start_ms: int
    """When it was started, in ms since 1970."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The finished trials of an experiment that may be compared with each other."""

    frame: pd.DataFrame
    """One row per trial: `trial_id` (the id of its run), `sweep_id`, `tradeoff`, `seed`, `architecture_id`,
    the fields of the architecture, every final metric, and `end_ms`. Where networks were trained in more than
    one way, `architecture_id` ends with the number of the way, see `ways`."""
    params: dict[str, dict[str, str]]
    """By trial_id, the settings as MLflow has them."""
    sweeps: list[RecordedSweep]
    """Those that the trials are of, oldest first."""
    accuracy: str
    """The metric that chooses."""
    experiment_id: str
    dataset: str
    """Name of the data set."""
    max_length: int
    """N, the positions that FLOPs and latency are for."""
    threads: int
    """CPU threads while latency was measured; 1 where nobody says."""
    measured_on: str
    """Where latency was measured, such as `cpu, 1 thread, HOST`; empty where nobody says."""
    num_failed: int
    """Trials that failed; they are nowhere else."""
    num_unfinished: int
    """Trials that have not finished, or were refused; they are nowhere else."""
    num_stopped: int = 0
    """Trials that a sweep stopped early; they are nowhere else."""
    ways: list[str] = field(default_factory=list)
    """How the networks were trained, where that differs: `max_epochs 100` for the first way, and so on."""
    notes: list[str] = field(default_factory=list)
    """What was left out, in sentences."""


def read_experiment(
    client: "MlflowClient", name: str, *, sweeps: Sequence[str] = (), dataset: str | None = None
) -> Recorded:
    """The finished trials of an experiment.

    Args:
        client: of the store.
        name: of the experiment.
        sweeps: names, run ids or sweep ids of the sweeps to read; all if left out.
        dataset: the data set to read, where there are several.

    Raises:
        InputError: there is no such experiment, sweep or data set, nothing has finished, or the trials cannot
            be compared with each other.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        known = sorted(found.name for found in client.search_experiments(max_results=100))
        raise InputError(
            f"there is no experiment {name!r} at {masked(client.tracking_uri)}; there are {', '.join(known)}"
        )
    found = _sweeps(client, experiment.experiment_id, name, sweeps)
    runs = [
        run
        for run in _runs(client, experiment.experiment_id, "tags.`easrec.kind` = 'trial'")
        if run.data.tags["easrec.sweep_id"] in found
    ]
    finished = [run for run in runs if _is_finished(run)]
    num_failed = sum(run.info.status == "FAILED" for run in runs)
    num_stopped = sum("easrec.stopped" in run.data.tags for run in runs)
    if not finished:
        raise InputError(
            f"no trial of the experiment {name!r} has finished"
            + (f" ({counted(num_failed, 'trial')} failed)" if num_failed else "")
            + ", so there is nothing to report; go on with its sweep by lambda_sweep.py --resume"
        )
    finished = _of_one_kind(finished, name, dataset)
    frame, notes = _table(finished)
    ways = _ways([run.data.params for run in finished])
    if len(set(ways)) > 1:
        numbers = {way: number for number, way in enumerate(dict.fromkeys(ways), start=1)}
        frame["architecture_id"] = [
            f"{own} (way {numbers[way]})" for own, way in zip(frame["architecture_id"], ways, strict=True)
        ]
    first = finished[0]
    used = set(frame["sweep_id"])
    measured = [run for run in finished if LATENCY in run.data.metrics]
    place = _usual_place(measured)
    return Recorded(
        frame=frame,
        params={run.info.run_id: dict(run.data.params) for run in finished},
        sweeps=sorted(
            (sweep for sweep in found.values() if sweep.sweep_id in used), key=lambda sweep: sweep.start_ms
        ),
        accuracy=selection_metric(frame),
        experiment_id=str(experiment.experiment_id),
        dataset=_data_name(first),
        max_length=int(first.data.params.get("search.max_length", 0)),
        threads=int(dict(place).get("measured.threads", "1")),
        measured_on=_place_text(place),
        num_failed=num_failed,
        num_unfinished=len(runs) - num_failed - num_stopped - sum(_is_finished(run) for run in runs),
        num_stopped=num_stopped,
        ways=_differences(ways),
        notes=notes,
    )


def _runs(client: "MlflowClient", experiment_id: str, filters: str) -> "list[Run]":
    """All runs that a filter lets through, oldest first."""
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            filters,
            max_results=_PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            return runs


def _sweeps(
    client: "MlflowClient", experiment_id: str, experiment: str, wanted: Sequence[str]
) -> dict[str, RecordedSweep]:
    """The sweeps that are wanted, by their ids."""
    found = [
        RecordedSweep(
            run.data.tags["easrec.sweep_id"],
            run.info.run_id,
            run.info.run_name or run.info.run_id,
            run.info.status,
            run.info.start_time,
        )
        for run in _runs(client, experiment_id, "tags.`easrec.kind` = 'sweep'")
    ]
    if not found:
        raise InputError(
            f"the experiment {experiment!r} at {masked(client.tracking_uri)} holds no sweep of easrec"
        )
    chosen: dict[str, RecordedSweep] = {}
    for text in wanted:
        matching = [sweep for sweep in found if text in (sweep.run_id, sweep.name, sweep.sweep_id)]
        if not matching:
            names = ", ".join(sorted({sweep.name for sweep in found}))
            raise InputError(
                f"the experiment {experiment!r} has no sweep {text!r}; its sweeps are {names[:500]}"
            )
        chosen |= {sweep.sweep_id: sweep for sweep in matching}
    return chosen or {sweep.sweep_id: sweep for sweep in found}


def _is_finished(run: "Run") -> bool:
    """Whether a trial ended with a network that may be compared; one that was stopped early is none."""
    metrics = run.data.metrics
    return (
        run.info.status == "FINISHED"
        and _FLOPS in metrics
        and any(name.startswith("valid/") and name.endswith("/ndcg_at_10") for name in metrics)
    )


def _data_name(run: "Run") -> str:
    return str(run.data.tags.get("data", "data of an unknown name"))


def _of_one_kind(runs: "list[Run]", experiment: str, dataset: str | None) -> "list[Run]":
    """The trials on the data set that is wanted; all must be on the same questions and the same length."""
    if dataset is not None:
        own = [run for run in runs if _data_name(run) == dataset]
        if not own:
            names = ", ".join(sorted({_data_name(run) for run in runs}))
            raise InputError(
                f"--dataset {dataset}: the experiment {experiment!r} has finished trials on {names} alone"
            )
        runs = own
    kinds = Counter(
        (
            _data_name(run),
            run.data.tags.get("data_checksum", ""),
            run.data.params.get("search.max_length", ""),
        )
        for run in runs
    )
    if len(kinds) > 1:
        described = "; ".join(
            f"{counted(number, 'trial')} on {data} (checksum {checksum[:8] or 'unknown'}, N = {length})"
            for (data, checksum, length), number in kinds.most_common()
        )
        remedy = "sweeps by --sweeps"
        if dataset is None:
            remedy = f"a data set by --dataset, or {remedy}"
        raise InputError(
            f"the experiment {experiment!r} has trials that cannot be compared: {described}; name {remedy}"
        )
    return runs


def _table(runs: "Sequence[Run]") -> tuple[pd.DataFrame, list[str]]:
    """One row per run, and what had to be left out."""
    place = _usual_place([run for run in runs if LATENCY in run.data.metrics])
    elsewhere = 0
    rows = []
    for run in runs:
        data = run.data
        metrics = {
            name: float(value)
            for name, value in data.metrics.items()
            # Curves have a point for each epoch, and their last one says little.
            if not name.startswith(("warmup/", "search/", "retrain/")) and name not in FOR_MLFLOW
        }
        if LATENCY in metrics and _place_of(run) != place:
            metrics = {name: value for name, value in metrics.items() if name not in MEASURED}
            elsewhere += 1
        rows.append(
            {
                "trial_id": run.info.run_id,
                "sweep_id": data.tags["easrec.sweep_id"],
                "tradeoff": float(data.params["tradeoff"]),
                "seed": int(data.params["seed"]),
                "architecture_id": data.params["architecture_id"],
                **_architecture(data.params),
                **metrics,
                "end_ms": int(run.info.end_time),
            }
        )
    notes = []
    if elsewhere:
        notes.append(
            f"Latency and memory of {counted(elsewhere, 'trial')} were measured elsewhere than "
            f"on {_place_text(place)} and are left out: times of two machines do not compare."
        )
    return pd.DataFrame(rows), notes


def _architecture(params: Mapping[str, str]) -> dict[str, Any]:
    """The fields of an architecture, as far as they were recorded."""
    found: dict[str, Any] = {}
    for name in Architecture.__dataclass_fields__:
        text = params.get(f"architecture.{name}")
        if text is not None:
            found[name] = int(text) if text.isdigit() else text
    return found


def _place_of(run: "Run") -> tuple[tuple[str, str], ...]:
    return tuple((name, run.data.tags[name]) for name in _PLACE if name in run.data.tags)


def _usual_place(runs: "Sequence[Run]") -> tuple[tuple[str, str], ...]:
    places = Counter(_place_of(run) for run in runs)
    return places.most_common(1)[0][0] if places else ()


def _place_text(place: tuple[tuple[str, str], ...]) -> str:
    tags = dict(place)
    parts = [tags.get("measured.gpu") or tags.get("measured.cpu") or tags.get("measured.device") or ""]
    if "measured.threads" in tags:
        parts.append(counted(int(tags["measured.threads"]), "thread"))
    if "measured.host" in tags:
        parts.append(tags["measured.host"])
    return ", ".join(part for part in parts if part and part != "None")


def _ways(params: Sequence[Mapping[str, str]]) -> list[tuple[tuple[str, str], ...]]:
    """How each trial's network was trained: what a retraining depends on besides architecture and seed."""
    warmup = {f"search.{name}" for name in SearchConfig().warmup_settings()} - {"search.seed"}
    ways = []
    for own in params:
        names = {name for name in own if name.startswith("retrain.") and not name.endswith("_used")}
        names.discard("retrain.seed")
        names.add("transfer_from")
        if own.get("transfer_from") != "fresh":
            names |= warmup
        ways.append(tuple(sorted((name, own[name]) for name in names if name in own)))
    return ways


def _differences(ways: Sequence[tuple[tuple[str, str], ...]]) -> list[str]:
    """In what the different ways differ, a text for each; none if there is one way."""
    distinct = [dict(way) for way in dict.fromkeys(ways)]
    if len(distinct) == 1:
        return []
    names = sorted({name for way in distinct for name in way})
    differing = [name for name in names if len({way.get(name) for way in distinct}) > 1]
    return [", ".join(f"{name} {way.get(name, '-')}" for name in differing) for way in distinct]
