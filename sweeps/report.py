"""The results of a sweep as files, and in MLflow."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from easrec.files import write_atomically
from sweeps.charts import pareto_html, pareto_png
from sweeps.description import sweep_description
from sweeps.panels import ChartLabels
from sweeps.results import FailedTrial, Param, TrialRecord
from sweeps.store import now_ms
from sweeps.tracking import SweepRecorder


def write_results(
    frame: pd.DataFrame, failed: Sequence[FailedTrial], directory: Path, labels: ChartLabels
) -> dict[str, Path]:
    """Write the table and both charts; returns the files by name.

    Args:
        frame: what `results_frame` returned.
        failed: trials without a result; they have a row each, with why in `error`, and no place in charts.
        directory: where.
        labels: what the charts say besides.
    """
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
    pareto_html(frame, files["pareto.html"], labels)
    pareto_png(frame, files["pareto.png"], labels)
    return files


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
    """
    for record in records:
        recorder.record_trial(record)
    recorder.record_fronts(frame)
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
        description=sweep_description(frame, labels),
        end_ms=max(record.end_ms for record in records),
    )
    recorder.finish("FINISHED", now_ms())
