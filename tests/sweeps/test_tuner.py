"""A sweep's directory, what it may ask of a cluster, and one sweep from end to end."""

import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock

from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.models.saving import load_network
from easrec.nas.resources import network_flops
from easrec.nas.supernet import Supernet
from sweeps.cluster import check_cluster, ray_cluster
from sweeps.config import SweepConfig
from sweeps.output import identify, locked_output

ROOT = Path(__file__).parents[2]
FACTS = {"data checksum": "abc"}


def test_a_second_sweep_in_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(InputError, match="another sweep is running in"),
        locked_output(tmp_path, resume=True),
    ):
        pass


def test_a_finished_directory_is_not_used_again_without_resume(tmp_path: Path) -> None:
    config = SweepConfig()
    with locked_output(tmp_path / "runs", resume=False) as path:
        first = identify(path, config, FACTS)
    with (
        pytest.raises(InputError, match="holds a sweep already; go on with it by --resume"),
        locked_output(tmp_path / "runs", resume=False),
    ):
        pass
    with locked_output(tmp_path / "runs", resume=True) as path:
        assert identify(path, config, FACTS) == first


def test_resuming_with_other_settings_names_them(tmp_path: Path) -> None:
    identify(tmp_path, SweepConfig(seeds=1), FACTS)
    with pytest.raises(InputError, match=r"--seeds was 1 and is now 3"):
        identify(tmp_path, SweepConfig(seeds=3), FACTS)
    with pytest.raises(InputError, match=r"data checksum was 'abc' and is now 'abd'"):
        identify(tmp_path, SweepConfig(), {"data checksum": "abd"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SweepConfig(cpus_per_trial=9), "--cpus-per-trial 9 is more than the 4 CPUs"),
        (SweepConfig(device="cuda"), "--gpus-per-trial 1 is more than the 0 GPUs"),
    ],
)
def test_more_than_the_cluster_has_is_refused(config: SweepConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_cluster(config, [{"CPU": 4.0}, {"CPU": 4.0}, {"CPU": 4.0}])


def test_trials_are_packed_on_cores_and_gpus() -> None:
    assert check_cluster(SweepConfig(cpus_per_trial=2), [{"CPU": 5.0}, {"CPU": 3.0}]).slots == 3
    cluster = check_cluster(SweepConfig(gpus_per_trial=0.5), [{"CPU": 8.0}, {"CPU": 64.0, "GPU": 2.0}])
    assert (cluster.device, cluster.slots) == ("cuda", 4)
    assert cluster.resources == {"CPU": 1.0, "GPU": 0.5}
    with pytest.raises(InputError, match="no node of the cluster has both 4 CPUs and 1 GPUs"):
        check_cluster(SweepConfig(cpus_per_trial=4), [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}])
    # A warm-up of more threads than CPUs is scheduled all the same.
    assert check_cluster(SweepConfig(), [{"CPU": 1.0}, {"CPU": 1.0}]).warmup_options(8)["num_cpus"] == 1


@pytest.mark.parametrize(
    ("gpus", "slots"), [(1.0, 3), (0.5, 6), (0.4, 6), (0.6, 3), (0.3, 9), (0.1, 30), (2.0, 1)]
)
def test_a_share_of_a_gpu_is_of_one_gpu(gpus: float, slots: int) -> None:
    """Three GPUs on a node: two trials of 0.6 never share one, so three and not five run at once."""
    cluster = check_cluster(SweepConfig(device="cuda", gpus_per_trial=gpus), [{"CPU": 64.0, "GPU": 3.0}])
    assert cluster.slots == slots
    # A warm-up takes no more than one GPU.
    assert cluster.warmup_slots == (3 if gpus > 1 else slots)


def command(output: Path, log: Path) -> list[str]:
    return [
        sys.executable, str(ROOT / "pipelines" / "lambda_sweep.py"),
        "--data", str(log), "--output", str(output), "--preset", "smoke", "--tradeoffs", "0", "0.001", "100",
        "--hidden-size", "16", "--inner-size", "32", "--max-length", "10", "--search-epochs", "3",
        "--search-weights", "train", "--retrain-epochs", "1",
    ]  # fmt: skip


def entries(output: Path) -> dict[str, float]:
    return {
        str(path.relative_to(output)): path.stat().st_mtime
        for path in (output / "store").rglob("result.json")
    }


def runs(output: Path) -> list[tuple[str, str]]:
    """(trial id or '', status) of every MLflow run."""
    with sqlite3.connect(output / "mlflow.db") as database:
        return sorted(
            database.execute(
                "select coalesce(t.value, ''), r.status from runs r left join tags t "
                "on t.run_uuid = r.run_uuid and t.key = 'easrec.trial_id'"
            ).fetchall()
        )


@pytest.mark.slow
def test_a_sweep_survives_an_interruption_and_repeats_nothing_once_finished(tmp_path: Path) -> None:
    log = tmp_path / "log.parquet"
    interactions = synthetic_interactions(150, 60, 12, seed=0)
    pd.DataFrame(
        {
            "user_id": interactions.users,
            "item_id": interactions.items,
            "timestamp": interactions.timestamps,
        }
    ).to_parquet(log)
    output = tmp_path / "sweep"
    words = command(output, log)

    # Ctrl-C while it trains.
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(output.glob("store/search/*/attempts.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    text, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    resume = shlex.split(re.search(r"Go on with:\n  (.*)", text).group(1))  # type: ignore[union-attr]
    assert "--resume" in resume
    before = entries(output)
    assert before.keys() and not (output / "results.parquet").exists()

    # The command it printed finishes the sweep and keeps what was there.
    done = subprocess.run(resume, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    finished = entries(output)
    assert {name: finished[name] for name in before} == before
    frame = pd.read_parquet(output / "results.parquet")
    assert frame["tradeoff"].tolist() == [0.0, 0.001, 100.0]
    assert frame["num_layers"].iloc[-1] == 1
    assert frame["hidden_size"].iloc[-1] == 4
    assert frame["pareto"].any()
    for row in frame.itertuples():
        names = list(Architecture.__dataclass_fields__)
        architecture = Architecture(**{name: getattr(row, name) for name in names})
        assert row.flops == network_flops(architecture, 10)
    retrainings = [name for name in finished if name.startswith("store/retrain")]
    architectures = frame["architecture_id"].nunique()
    assert len(retrainings) == architectures
    assert f"3 lambdas, {architectures} architecture" in done.stdout
    for name in ("pareto.png", "pareto.html"):
        assert (output / name).stat().st_size > 10_000
    recorded = runs(output)
    assert [status for _, status in recorded] == ["FINISHED"] * 4
    assert {trial for trial, _ in recorded} == {"", *frame["trial_id"]}
    for weights in output.glob("artifacts/*/artifacts/weights.safetensors"):
        assert load_network(weights.parent).num_items == 60
    (supernet,) = output.glob("artifacts/*/artifacts/supernet-seed0.safetensors")
    assert Supernet.load(supernet).num_items == 60

    # Once more: nothing is computed, nothing recorded twice.
    again = subprocess.run(resume, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert entries(output) == finished
    assert runs(output) == recorded
    assert pd.read_parquet(output / "results.parquet").equals(frame)
    assert json.loads((output / "sweep.json").read_text())["settings"]["--search-epochs"] == 3


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with (
            pytest.raises(InputError, match=f"nothing answers at --ray-address {address}"),
            ray_cluster(SweepConfig(ray_address=address)),
        ):
            pass
