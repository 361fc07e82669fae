"""Views of MLflow's runs table that a link opens: which runs, in what order, with which columns.

MLflow's UI keeps a view that somebody shares as a tag of the experiment, and opens it by its key. A sweep
leaves three of its own there, so that nobody has to look for its columns among a hundred, or for its charts
among fifty.
"""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TAG = "mlflow.sharedViewState."


FRONT_METRICS = {"pareto": "on_front", "pareto_latency": "on_latency_front"}
"""Flag of a front -> the metric, 1 or 0, that runs have for it: MLflow sorts by metrics and not by tags."""
FLOPS_LOG10 = "flops_log10"
"""MLflow's charts have no logarithmic axes."""
FOR_MLFLOW = (FLOPS_LOG10, *FRONT_METRICS.values())
"""Metrics that stand there for its pages alone, and are no result."""


def share_views(
    client: "MlflowClient", experiment_id: str, sweep_id: str, *, accuracy: str
) -> dict[str, str]:
    """Keep the views of a sweep with its experiment; doing it again changes nothing.

    Args:
        client: of the store.
        experiment_id: where the sweep's runs are.
        sweep_id: key of the sweep.
        accuracy: the metric by which runs are sorted, best first.

    Returns:
        What a view shows -> its address within the UI.
    """
    own = f"tags.`easrec.sweep_id` = '{sweep_id}'"
    trials = f"{own} and tags.`easrec.kind` = 'trial'"
    views = {
        "the front, best first": ("front", f"{own} and tags.pareto = 'true'", ""),
        "all trials, best first": ("trials", trials, ""),
        "their charts": ("charts", trials, "&compareRunsMode=CHART"),
    }
    links = {}
    for name, (ending, search, mode) in views.items():
        key = f"easrec-{sweep_id}-{ending}"
        client.set_experiment_tag(experiment_id, _TAG + key, _state(search, accuracy))
        # MLflow opens in its menu for language models unless it is told.
        links[name] = (
            f"#/experiments/{experiment_id}/runs?viewStateShareKey={key}&workflowType=machine_learning{mode}"
        )
    return links


def _state(search: str, accuracy: str) -> str:
    test = accuracy.replace("valid/", "test/", 1)
    return json.dumps(
        {
            "searchFilter": search,
            "orderByKey": f"metrics.`{accuracy}`",
            "orderByAsc": False,
            "selectedColumns": [
                f"metrics.`{FRONT_METRICS['pareto']}`",
                f"metrics.`{accuracy}`",
                f"metrics.`{test}`",
                "metrics.`flops`",
                "metrics.`latency_ms_p50`",
                "metrics.`params`",
                "params.`tradeoff`",
                "tags.`seed`",
                "tags.`architecture_id`",
            ],
            "runsHiddenMode": "SHOW_ALL",
            # Without it sections are sorted by name, and MLflow adds one for each group of metrics.
            "isAccordionReordered": True,
            "compareRunSections": [
                {
                    "uuid": "easrec",
                    "name": "Accuracy and its price",
                    "display": True,
                    "isReordered": False,
                    "deleted": False,
                    "isGenerated": False,
                }
            ],
            "compareRunCharts": _charts(accuracy),
        }
    )


def _charts(accuracy: str) -> list[dict[str, Any]]:
    """The accuracy against both costs, and what leads where, as MLflow keeps its charts."""
    common = {"metricSectionId": "easrec", "deleted": False, "isGenerated": False, "runsCountToCompare": 100}
    scatters = [
        {
            **common,
            "uuid": f"easrec-{cost}",
            "type": "SCATTER",
            "xaxis": {"key": cost, "type": "METRIC"},
            "yaxis": {"key": accuracy, "type": "METRIC"},
        }
        for cost in (FLOPS_LOG10, "latency_ms_p50")
    ]
    parallel = {
        **common,
        "uuid": "easrec-parallel",
        "type": "PARALLEL",
        # More axes, or longer names, write over each other.
        "selectedParams": ["tradeoff"],
        "selectedMetrics": [FLOPS_LOG10, "latency_ms_p50", accuracy],
        "showAllRuns": True,
    }
    return [*scatters, parallel]
