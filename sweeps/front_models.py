"""The networks on the fronts as models in MLflow: each with a signature, ready to be loaded or served.

The model is the bundle that an export makes, so what is shipped later is what stands here. Of an architecture
with several seeds it is the network of the seed that did best on validation.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from easrec.data.items import Items
from easrec.models.saving import load_network
from easrec.serving import save_bundle
from sweeps.choice import best_trial
from sweeps.configurations import COSTS, short_name
from sweeps.registry import CONTENT, MODEL_TYPE, content_digest, log_model, mlflow_at, signature_text
from sweeps.results import TrialRecord
from sweeps.tracking import SweepRecorder

_WEIGHTS = "weights.safetensors"


def log_front_models(
    recorder: SweepRecorder, frame: pd.DataFrame, records: Sequence[TrialRecord], items: Items
) -> list[str]:
    """Log the networks on the fronts as models of their trials' runs; what is there already stays.

    Models that an earlier call logged and whose networks are on no front any more get tags that say so.

    Args:
        recorder: of the sweep; the trials have been recorded.
        frame: what `results_frame` returned.
        records: the finished trials.
        items: what the networks' item ids stand for.

    Returns:
        The models' ids, in the order of the architectures' ids.
    """
    by_id = {record.trial_id: record for record in records}
    on_front = frame[frame[list(COSTS)].any(axis="columns")]
    logged = []
    with mlflow_at(recorder.tracking_uri), tempfile.TemporaryDirectory(prefix="easrec-models-") as scratch:
        for name in sorted(on_front["architecture_id"].unique()):
            record = by_id[best_trial(frame, name, reason="").trial_id]
            flags = frame.loc[frame["trial_id"] == record.trial_id, list(COSTS)].iloc[0]
            tags = {str(flag): str(bool(value)).lower() for flag, value in flags.items()}
            bundle = save_bundle(
                Path(scratch, name),
                load_network(record.artifacts[_WEIGHTS].parent),
                items,
                files={"signature.json": signature_text(items)},
            )
            logged.append(_log(recorder, record, bundle, items, tags))
        _retire(recorder, logged)
    return logged


def _log(
    recorder: SweepRecorder, record: TrialRecord, bundle: Path, items: Items, tags: dict[str, str]
) -> str:
    run_id = recorder.run_of(record.trial_id)
    if run_id is None:
        raise ValueError(f"trial {record.trial_id} has not been recorded")
    client = recorder.client
    digest = content_digest(bundle)
    tags = {
        **tags,
        CONTENT: digest,
        "architecture_id": record.architecture.architecture_id,
        "seed": str(record.seed),
        "easrec.sweep_id": recorder.sweep_id,
        "easrec.kind": "front",
    }
    for model in client.search_logged_models(
        [recorder.experiment_id], f"tags.`{CONTENT}` = '{digest}' AND source_run_id = '{run_id}'"
    ):
        if model.status == "READY":
            # An export may have logged it, without what tells of fronts.
            client.set_logged_model_tags(model.model_id, tags)
            return str(model.model_id)
    return log_model(
        client,
        bundle,
        items,
        run_id=run_id,
        name=short_name(record.architecture).replace("/", "-").replace(" ", ""),
        tags=tags,
    )


def _retire(recorder: SweepRecorder, logged: Sequence[str]) -> None:
    """Tag models of the sweep whose networks are on no front any more."""
    found = recorder.client.search_logged_models(
        [recorder.experiment_id],
        f"tags.`easrec.sweep_id` = '{recorder.sweep_id}' AND tags.`easrec.kind` = 'front'",
    )
    for model in found:
        if model.model_id not in logged and model.model_type == MODEL_TYPE:
            recorder.client.set_logged_model_tags(model.model_id, dict.fromkeys(COSTS, "false"))
