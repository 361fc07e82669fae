"""Read a finished smoke sweep back from its files and from MLflow, and compare the two."""

import json
import math
import sys
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import get_model_info
from mlflow.tracking import MlflowClient

from easrec.data.items import Items
from easrec.models.architecture import Architecture
from easrec.models.saving import load_network
from easrec.nas.resources import network_flops
from easrec.nas.supernet import Supernet
from sweeps.user_ranks import RANKS, read_gains

METRICS = [
    *(
        f"{split}/{protocol}/{metric}_at_10"
        for split in ("valid", "test")
        for protocol in ("full", "unseen", "uni100", "pop100")
        for metric in ("recall", "mrr", "ndcg")
    ),
    "flops",
    "flops_total",
    "params",
    "weights_mib",
    "latency_ms_p50",
    "latency_ms_p95",
    "served_ms_p50",
    "served_ms_p95",
    "served_history_ms_p50",
    "update_ms_p50",
    "inference_s",
    "peak_memory_mib",
    "train_peak_memory_mib",
    "search_s",
    "retrain_s",
]


def check(output: Path) -> None:
    """Raise AssertionError where the sweep in `output` is not what a sweep should leave."""
    frame = pd.read_parquet(output / "results.parquet").set_index("trial_id")
    assert len(frame) == 2, f"two lambdas give two trials, not {len(frame)}"
    assert frame["pareto"].any()
    assert frame["pareto_latency"].any()
    for metric in METRICS:
        assert frame[metric].map(math.isfinite).all(), f"{metric} is missing in results.parquet"
    assert (output / "pareto.png").read_bytes().startswith(b"\x89PNG")
    html = (output / "pareto.html").read_text()
    assert "plotly" in html
    assert "<script src=" not in html, "the chart must work offline"

    store = f"sqlite:///{output.resolve()}/mlflow.db"
    mlflow.set_tracking_uri(store)
    client = MlflowClient(store)
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments)
    parents = [run for run in runs if run.data.tags["easrec.kind"] == "sweep"]
    children = [run for run in runs if run.data.tags["easrec.kind"] == "trial"]
    assert len(runs) == len(parents) + len(children), "one seed needs no runs of configurations"
    assert (len(parents), len(children)) == (1, 2), f"{len(parents)} parents, {len(children)} trials"
    artifacts = {file.path for file in client.list_artifacts(parents[0].info.run_id)}
    expected = {"pareto.png", "pareto.html", "results.parquet", "configurations.parquet"}
    expected |= {"items.parquet", "sweep.json"}
    assert expected <= artifacts, artifacts
    assert Items.load(output / "items.parquet").num_items == int(parents[0].data.params["data.items"])
    supernet = next(name for name in artifacts if name.startswith("supernet"))
    Supernet.load(client.download_artifacts(parents[0].info.run_id, supernet))
    for run in children:
        assert run.info.status == "FINISHED"
        row = frame.loc[run.data.tags["easrec.trial_id"]]
        for metric in METRICS:
            assert run.data.metrics[metric] == row[metric], f"{metric} differs"
        assert run.data.tags["pareto"] == str(row["pareto"]).lower()
        files = Path(client.download_artifacts(run.info.run_id, ""))
        architecture = Architecture.from_dict(json.loads((files / "architecture.json").read_text()))
        assert architecture.architecture_id == row["architecture_id"] == run.data.tags["architecture_id"]
        assert row["flops"] == network_flops(architecture, 50)
        gains = read_gains(files / RANKS, "valid/unseen/ndcg_at_10")
        assert gains is not None and math.isclose(gains.mean, row["valid/unseen/ndcg_at_10"])
        network = load_network(files)
        assert row["params"] == sum(parameter.numel() for parameter in network.parameters())
    models = client.search_logged_models(experiments)
    of_front = set(frame.loc[frame["pareto"] | frame["pareto_latency"], "architecture_id"])
    assert {model.tags["architecture_id"] for model in models} == of_front
    for model in models:
        assert get_model_info(f"models:/{model.model_id}").signature is not None
    print(f"{output}: files and MLflow agree on {len(frame)} trials")


if __name__ == "__main__":
    check(Path(sys.argv[1]))
