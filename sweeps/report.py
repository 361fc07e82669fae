"""The results of a sweep as files, and in MLflow."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from easrec.data.items import Items
from easrec.files import write_atomically
from sweeps.charts import pareto_html, pareto_png
from sweeps.confidence import Confidence
from sweeps.configurations import configuration_records, configurations_frame, write_configurations
from sweeps.description import sweep_description
from sweeps.front_models import log_front_models
from sweeps.panels import ChartLabels
from sweeps.results import FailedTrial, Param, TrialRecord
from sweeps.store import now_ms
from sweeps.tracking import SweepRecorder


def write_results(
    frame: pd.DataFrame,
    failed: Sequence[FailedTrial],
    directory: Path,
    labels: ChartLabels,
    confidence: Confidence | None = None,
) -> dict[str, Path]:
    """Write the tables of trials and of configurations, and both charts; returns the files by name.

    Args:
        frame: what `results_frame` returned.
        failed: trials without a result; they have a row each, with why in `error`, and no place in charts.
        directory: where.
        labels: what the charts say besides.
        confidence: of the trials; left out, it is made without what users earned, from seeds alone.
    """
    confidence = confidence or Confidence(frame, accuracy=labels.accuracy)
    files = {name: directory / name for name in ("results.parquet", "pareto.html", "pareto.png")}
    table = frame.assign(status="finished", error="")
    if failed:
        rows = [
            {
                "trial_id": trial.trial_id,
                "tradeoff": trial.tradeoff,
                "seed": trial.seed,
                "status": trial.status,
                "error": trial.error,
                "pareto": False,
                "pareto_latency": False,
            }
            for trial in failed
        ]
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
    write_atomically(files["results.parquet"], lambda temporary: table.to_parquet(temporary, index=False))
    pareto_html(frame, files["pareto.html"], labels, confidence)
    pareto_png(frame, files["pareto.png"], labels, confidence)
    table_of_configurations = write_configurations(configurations_frame(frame, confidence), directory)
    return files | {table_of_configurations.name: table_of_configurations}


def record_results(
    recorder: SweepRecorder,
    records: Sequence[TrialRecord],
    frame: pd.DataFrame,
    labels: ChartLabels,
    *,
    params: Mapping[str, Param],
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    artifacts: Mapping[str, Path],
    confidence: Confidence | None = None,
    items: Items | None = None,
    remarks: Sequence[str] = (),
) -> None:
    """Write all trials and the sweep itself into MLflow, and end the sweep's run.

    Args:
        recorder: of this sweep.
        records: the finished trials.
        frame: their `results_frame`.
        labels: what charts and description say besides.
        params: settings that all trials share.
        tags: tags that all trials share.
        metrics: counts of the whole sweep besides those of `frame`.
        artifacts: files of the whole sweep, by name.
        confidence: as for `write_results`.
        items: what the networks' item ids stand for: with them those on the fronts become models in MLflow.
        remarks: sentences that the description has besides.
    """
    confidence = confidence or Confidence(frame, accuracy=labels.accuracy)
    for record in records:
        recorder.record_trial(record)
    recorder.record_fronts(frame)
    table = configurations_frame(frame, confidence)
    for configuration in configuration_records(table, records):
        recorder.record_configuration(configuration)
    if items is not None:
        log_front_models(recorder, frame, records, items)
    recorder.record_sweep(
        params=params,
        metrics={
            **metrics,
            "num_finished": len(frame),
            "num_architectures": frame["architecture_id"].nunique(),
            "num_pareto": frame.loc[frame["pareto"], "architecture_id"].nunique(),
        },
        tags=tags,
        artifacts=artifacts,
        description=sweep_description(
            frame, labels, confidence, links=recorder.share_views(labels.accuracy), remarks=remarks
        ),
        end_ms=max(record.end_ms for record in records),
    )
    recorder.finish("FINISHED", now_ms())
