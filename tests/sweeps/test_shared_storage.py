"""A sweep on Ray whose results lie on S3: a worker that is killed, and the same figures as without."""

import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from easrec.data.sequences import leave_one_out
from easrec.data.synthetic import synthetic_interactions
from sweeps.cluster import ray_cluster
from sweeps.config import SweepConfig
from sweeps.objects import open_storage
from sweeps.records import trial_architecture
from sweeps.shared_storage import shared_store
from sweeps.store import Store, now_ms
from sweeps.trainable import SharedData
from sweeps.trial import run_trial, warm_stage
from sweeps.tuner import train_trials, warm_supernets
from tests.sweeps.object_server import object_server
from tests.sweeps.test_remote_store import figures, trial_of


def kill_while_retraining(store: Any, place: str, killed: list[int], stop: threading.Event) -> None:
    """SIGKILL the worker that retrains, once some epochs of it are kept."""
    while not stop.wait(0.02):
        activity = store.coordinator.state().running.get(place)
        if activity is None or activity.report is None or activity.report["epoch"] < 3:
            continue
        for process in psutil.Process().children(recursive=True):
            if "ImplicitFunc" in " ".join(process.cmdline()):
                process.kill()
                killed.append(now_ms())
        return


@pytest.mark.slow
def test_a_worker_killed_while_it_retrains_is_followed_by_one_that_goes_on_out_of_s3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("EASREC_CACHE_DIR", str(tmp_path / "cache"))
    data = leave_one_out(synthetic_interactions(60, 40, 12, seed=1))
    trial = trial_of(data, 0.0, retrain_epochs=40)
    undisturbed = Store(tmp_path / "store")
    warm_stage(trial, data, undisturbed)
    run_trial(trial, data, undisturbed)
    architecture = trial_architecture(trial, undisturbed)
    assert architecture is not None
    key = trial.retrain_key(architecture)
    killed: list[int] = []
    stop = threading.Event()
    ended: list[float] = []
    with object_server() as server, ray_cluster(SweepConfig()) as cluster:
        store = shared_store(open_storage(server.url("sweep")))
        store.refresh()
        shared = SharedData.put(data)
        assert warm_supernets([trial], shared, store, cluster) == {}
        thread = threading.Thread(target=kill_while_retraining, args=(store, f"retrain/{key}", killed, stop))
        thread.start()
        try:
            crashed = train_trials(
                [trial], shared, store, cluster, on_busy="defer", on_end=lambda _: ended.append(time.time())
            )
        finally:
            stop.set()
            thread.join()
        store.refresh()
        assert crashed == {} and len(ended) == 1
        assert len(killed) == 1, "the worker was not killed"
        result = store.entry("retrain", key).value()
        times = [epoch["timestamp_ms"] for epoch in result["epochs"]]
        before = sum(timestamp <= killed[0] for timestamp in times)
        assert 3 <= before < len(times), "its epochs were not done again"
        assert figures(trial, data, store) == figures(trial, data, undisturbed)
