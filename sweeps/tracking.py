"""Recording a sweep in MLflow: one parent run, one child run per trial, each written once for all.

With several seeds each configuration has a child run too, with the means over its trials; the tag easrec.kind
tells `sweep`, `trial` and `configuration` apart, and whoever reads trials asks for that kind.

Only the driver writes. Every call may be repeated, after a crash too: runs are found again by their
tags, values already stored are not stored twice. That rests on records that do not change, so a trial's
record is kept on disk before it is recorded here.
"""

import hashlib
import json
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from sweeps.configurations import ConfigurationRecord
from sweeps.mlflow_store import EXPERIMENT, create_store, open_experiment, ui_command
from sweeps.results import Curve, FailedTrial, Param, TrialRecord, Unfinished
from sweeps.views import FLOPS_LOG10, FRONT_METRICS, share_views

if TYPE_CHECKING:
    from mlflow.entities import Run

# MLflow is imported where it is first needed: its import takes seconds, which `create_store` spends in a
# thread of its own.

__all__ = ["Status", "SweepRecorder", "create_store", "ui_command"]

Status = Literal["FINISHED", "FAILED", "KILLED"]

_UNFINISHED: dict[Unfinished, tuple[str, Status]] = {
    "failed": ("easrec.error", "FAILED"),
    "refused": ("easrec.refused", "KILLED"),
    "stopped": ("easrec.stopped", "KILLED"),
}
"""Tag and status of runs without a result."""

_MAX_METRICS = 1000  # of one call, by MLflow's API
_MAX_PARAMS_OR_TAGS = 100
_MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 8000


class SweepRecorder:
    """Writes one sweep into MLflow; opening it again for the same sweep continues the same runs."""

    KIND = "sweep"
    """The tag easrec.kind of the parent run."""
    TRIAL_KIND = "trial"
    """That of the runs of trials."""
    MEAN_KIND = "configuration"
    """That of the runs that hold means over seeds."""

    def __init__(
        self,
        tracking_uri: str,
        sweep_id: str,
        *,
        start_ms: int,
        experiment: str = EXPERIMENT,
        run_name: str | None = None,
        artifacts: Path | None = None,
    ) -> None:
        """Open the experiment and the sweep's parent run, making those that are missing.

        Args:
            tracking_uri: what `create_store` returned, or the address of a tracking server or a database.
            sweep_id: key of the sweep; the same on resume.
            start_ms: when the sweep began, in ms since 1970; used when the parent run is made.
            experiment: name of the MLflow experiment; sweeps that share it compare in one chart.
            run_name: what the UI calls the parent run; the sweep_id if left out.
            artifacts: see `open_experiment`.
        """
        from mlflow import MlflowClient

        # It prints a traceback of what its database refuses, which callers say in a sentence.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        self.tracking_uri = tracking_uri
        self.sweep_id = sweep_id
        self.client = self._client = MlflowClient(tracking_uri=tracking_uri)
        self.experiment_id = open_experiment(self._client, experiment, tracking_uri, artifacts)
        parent = self._find({"easrec.sweep_id": sweep_id, "easrec.kind": self.KIND})
        if parent is None:
            parent = self._client.create_run(
                self.experiment_id,
                start_time=start_ms,
                run_name=run_name or sweep_id,
                tags={"easrec.sweep_id": sweep_id, "easrec.kind": self.KIND},
            )
        elif parent.info.status != "RUNNING":
            self._client.update_run(parent.info.run_id, status="RUNNING")
        self.parent_run_id: str = parent.info.run_id

    def record_trial(self, record: TrialRecord) -> str:
        """Write a finished trial into its child run and return the run's id.

        Called again with figures measured since (latency, say), it adds them. A final metric that
        changed is written one step later, so that MLflow shows the record's value.
        """
        metrics = _with_logarithm(record.metrics)
        _check_finite(metrics, record.curves)
        tags = {
            **record.tags,
            "seed": str(record.seed),
            "architecture_id": record.architecture.architecture_id,
        }
        run = self._child(record)
        self._log_params(run, record.params)
        self._log_metrics(run, metrics, record.curves, timestamp_ms=record.end_ms)
        self._log_tags(run, tags)
        if "easrec.error" in run.data.tags:  # an earlier attempt failed
            self._client.delete_tag(run.info.run_id, "easrec.error")
        self._log_artifacts(run, record.artifacts, record.params)
        self._client.set_terminated(run.info.run_id, "FINISHED", end_time=record.end_ms)
        return str(run.info.run_id)

    def record_failure(self, failed: FailedTrial) -> str:
        """Write a trial without a result into its child run, why as a tag, and return the run's id.

        One that failed has the tag easrec.error; one that was refused or stopped early has easrec.refused or
        easrec.stopped and is KILLED there.
        """
        run = self._child(failed)
        self._log_params(run, failed.params)
        name, status = _UNFINISHED[failed.status]
        self._log_tags(run, {**failed.tags, "seed": str(failed.seed), name: failed.error})
        self._client.set_terminated(run.info.run_id, status, end_time=failed.end_ms)
        return str(run.info.run_id)

    def record_configuration(self, record: ConfigurationRecord) -> str:
        """Write a configuration into a child run of its own and return the run's id.

        Called again, as trials are added or measured anew, it brings the run up to date.
        """
        metrics = _with_logarithm(record.metrics)
        metrics |= {
            metric: float(record.tags[flag] == "true")
            for flag, metric in FRONT_METRICS.items()
            if flag in record.tags
        }
        _check_finite(metrics, {})
        tags = {
            "mlflow.parentRunId": self.parent_run_id,
            "easrec.kind": self.MEAN_KIND,
            "architecture_id": record.architecture_id,
        }
        run = self._find(tags) or self._client.create_run(
            self.experiment_id,
            start_time=record.start_ms,
            run_name=record.name,
            tags={**tags, "easrec.sweep_id": self.sweep_id},
        )
        run_id = str(run.info.run_id)
        if run.info.run_name != record.name:
            self._client.update_run(run_id, name=record.name)
        self._log_params(run, record.params)
        self._log_metrics(run, metrics, {}, timestamp_ms=record.end_ms)
        self._log_tags(run, record.tags)
        for tag in run.data.tags:
            if tag.endswith("_not_told_apart_from") and tag not in record.tags:
                self._client.delete_tag(run_id, tag)
        self._client.set_terminated(run_id, "FINISHED", end_time=record.end_ms)
        return run_id

    def record_fronts(self, frame: pd.DataFrame) -> None:
        """Note with the recorded trials of `results_frame` whether they are on the fronts."""
        for row in frame.to_dict("records"):
            run = self._find(self._child_tags(row["trial_id"]))
            if run is None:
                raise ValueError(f"trial {row['trial_id']} has not been recorded")
            flags = {name: bool(row[name]) for name in FRONT_METRICS}
            self._log_tags(run, {name: str(flag).lower() for name, flag in flags.items()})
            metrics = {FRONT_METRICS[name]: float(flag) for name, flag in flags.items()}
            self._log_metrics(run, metrics, {}, timestamp_ms=run.info.end_time)

    def record_sweep(
        self,
        *,
        params: Mapping[str, Param],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Mapping[str, Path],
        description: str,
        end_ms: int,
    ) -> None:
        """Write what belongs to the whole sweep into the parent run; `finish` ends it.

        Args:
            params: settings that all trials share, nested names joined by dots.
            metrics: figures of the whole sweep.
            tags: as in `TrialRecord`.
            artifacts: path among the run's artifacts -> file: charts, table, warm supernets.
            description: Markdown that the UI shows on top of the run.
            end_ms: time of the metrics, in ms since 1970; fixed for a sweep whose trials are all done.
        """
        _check_finite(metrics, {})
        run = self._client.get_run(self.parent_run_id)
        self._log_params(run, params)
        self._log_metrics(run, metrics, {}, timestamp_ms=end_ms)
        self._log_tags(run, {**tags, "mlflow.note.content": description})
        self._log_artifacts(run, artifacts, params)

    def finish(self, status: Status, end_ms: int) -> None:
        """End the parent run: FINISHED, FAILED, or KILLED when the user stopped the sweep."""
        self._client.set_terminated(self.parent_run_id, status, end_time=end_ms)

    def share_views(self, accuracy: str) -> dict[str, str]:
        """Keep views of the sweep's runs with the experiment; see `sweeps.views.share_views`."""
        return share_views(self._client, self.experiment_id, self.sweep_id, accuracy=accuracy)

    def run_of(self, trial_id: str) -> str | None:
        """The id of the run of a recorded trial, or None."""
        run = self._find(self._child_tags(trial_id))
        return None if run is None else str(run.info.run_id)

    def _child_tags(self, trial_id: str) -> dict[str, str]:
        return {"mlflow.parentRunId": self.parent_run_id, "easrec.trial_id": trial_id}

    def _child(self, trial: TrialRecord | FailedTrial) -> "Run":
        tags = self._child_tags(trial.trial_id)
        # The tags arrive with the run in one transaction: no crash leaves a run that cannot be found.
        return self._find(tags) or self._client.create_run(
            self.experiment_id,
            start_time=trial.start_ms,
            run_name=trial.name or f"lambda {trial.tradeoff:g}, seed {trial.seed}",
            tags={**tags, "easrec.sweep_id": self.sweep_id, "easrec.kind": self.TRIAL_KIND},
        )

    def _find(self, tags: Mapping[str, str]) -> "Run | None":
        for value in tags.values():
            if "'" in value:
                raise ValueError(f"an id may hold no quote, got {value!r}")
        filters = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self._client.search_runs([self.experiment_id], filters, max_results=1)
        return found[0] if found else None

    def _log_params(self, run: "Run", params: Mapping[str, Param]) -> None:
        from mlflow.entities import Param as MlflowParam

        entries = [MlflowParam(name, _fitting(str(params[name]))) for name in sorted(params)]
        for part in _parts(entries, _MAX_PARAMS_OR_TAGS):
            self._client.log_batch(run.info.run_id, params=part)

    def _log_tags(self, run: "Run", tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        too_long = [name for name in tags if len(tags[name]) > _MAX_TAG_LENGTH]
        if too_long:
            raise ValueError(
                f"tag {too_long[0]} has {len(tags[too_long[0]])} characters, MLflow takes {_MAX_TAG_LENGTH}"
            )
        entries = [RunTag(name, tags[name]) for name in sorted(tags)]
        for part in _parts(entries, _MAX_PARAMS_OR_TAGS):
            self._client.log_batch(run.info.run_id, tags=part)

    def _log_metrics(
        self,
        run: "Run",
        metrics: Mapping[str, float],
        curves: Mapping[str, Curve],
        *,
        timestamp_ms: int,
    ) -> None:
        from mlflow.entities import Metric

        stored: Mapping[str, float] = run.data.metrics
        entries = []
        for name in sorted(metrics):
            step = 0
            if name in stored and stored[name] != metrics[name]:
                history = self._client.get_metric_history(run.info.run_id, name)
                step = 1 + max(point.step for point in history)
            if name not in stored or step > 0:
                entries.append(Metric(name, float(metrics[name]), timestamp_ms, step))
        # A point that is already there, with the same step and time, is not stored again by MLflow.
        for name in sorted(curves):
            entries += [Metric(name, float(value), time, step) for step, time, value in curves[name]]
        for part in _parts(entries, _MAX_METRICS):
            self._client.log_batch(run.info.run_id, metrics=part)

    def _log_artifacts(self, run: "Run", artifacts: Mapping[str, Path], params: Mapping[str, Param]) -> None:
        """Upload files under their names, and params.json: the parameters uncut and with their types."""
        text = json.dumps(dict(params), indent=2, sort_keys=True)
        digest = hashlib.sha256(text.encode())
        for name in sorted(artifacts):
            digest.update(name.encode() + hashlib.sha256(artifacts[name].read_bytes()).digest())
        # Set last, so that an upload that was cut short is done again and a whole one is not.
        if run.data.tags.get("easrec.artifacts") == digest.hexdigest():
            return
        with tempfile.TemporaryDirectory() as directory:
            for name in artifacts:
                link = Path(directory, name)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(artifacts[name].resolve())
            Path(directory, "params.json").write_text(text + "\n", encoding="utf-8")
            self._client.log_artifacts(run.info.run_id, directory)
        self._log_tags(run, {"easrec.artifacts": digest.hexdigest()})


def _with_logarithm(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics and, beside the FLOPs, their logarithm."""
    if metrics.get("flops", 0) > 0:
        return {**metrics, FLOPS_LOG10: math.log10(metrics["flops"])}
    return dict(metrics)


def _check_finite(metrics: Mapping[str, float], curves: Mapping[str, Curve]) -> None:
    """Refuse what MLflow would store as another number (infinity becomes 1.8e308)."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ValueError(f"metric {name} is {value}; only finite values are recorded")
    for name, points in curves.items():
        for step, _, value in points:
            if not math.isfinite(value):
                raise ValueError(f"metric {name} is {value} at step {step}; only finite values are recorded")


def _fitting(value: str) -> str:
    """A parameter's value, cut where MLflow allows no more; cut values differ if the whole ones do."""
    if len(value) <= _MAX_PARAM_LENGTH:
        return value
    digest = hashlib.sha256(value.encode()).hexdigest()[:16]
    ending = f" ... [{len(value)} characters, sha256 {digest}; whole in params.json]"
    return value[: _MAX_PARAM_LENGTH - len(ending)] + ending


def _parts(entries: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]
