"""Views of MLflow's runs table that a link opens: which runs, in what order, with which columns.

MLflow's UI keeps a view that somebody shares as a tag of the experiment, and opens it by its key. A sweep
leaves two of its own there, so that nobody has to look for its columns among a hundred.
"""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

_TAG = "mlflow.sharedViewState."


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
    filters = {
        "the front, best first": ("front", f"{own} and tags.pareto = 'true'"),
        "all trials, best first": ("trials", f"{own} and tags.`easrec.kind` = 'trial'"),
    }
    links = {}
    for name, (ending, search) in filters.items():
        key = f"easrec-{sweep_id}-{ending}"
        client.set_experiment_tag(experiment_id, _TAG + key, _state(search, accuracy))
        links[name] = f"#/experiments/{experiment_id}/runs?viewStateShareKey={key}"
    return links


def _state(search: str, accuracy: str) -> str:
    test = accuracy.replace("valid/", "test/", 1)
    return json.dumps(
        {
            "searchFilter": search,
            "orderByKey": f"metrics.`{accuracy}`",
            "orderByAsc": False,
            "selectedColumns": [
                "tags.`pareto`",
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
        }
    )
