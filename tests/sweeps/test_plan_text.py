import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sweeps.cluster  # isort: skip  (before Ray, see there)
from ray.cluster_utils import Cluster as RayCluster

from easrec.data.sequences import leave_one_out
from easrec.data.splits import temporal_split
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from sweeps.config import SweepConfig
from sweeps.estimate import EpochTimes
from sweeps.plan import preset_of
from sweeps.plan_text import plan, plan_text

REPOSITORY = Path(__file__).parents[2]


def test_a_plan_has_every_pair_of_a_product_space_with_its_flops() -> None:
    config = SweepConfig(
        device="cpu", preset="smoke", pairing="product", weights="shared", max_length=8, max_flops=10**6,
        hidden_intensities=(0.0, 0.5), inner_intensities=(0.0, 0.75),
    )  # fmt: skip
    data = leave_one_out(synthetic_interactions(40, 40, 8, seed=0))
    preset = preset_of(config)
    text = plan(config, preset, data, described="some data")
    assert text.startswith("some data\n")
    assert "candidates (4), each with 1 to 2 layers, shared weights, 4 heads of linear attention" in text
    rows = re.findall(r"(\d): hidden +(\d+)  inner +(\d+) +([\d,]+) FLOPs per layer", text)
    assert [(int(k), int(hidden), int(inner)) for k, hidden, inner, _ in rows] == [
        (0, 32, 64), (1, 32, 16), (2, 16, 64), (3, 16, 16),
    ]  # fmt: skip
    for _, hidden, inner, flops in rows:
        d, f = int(hidden), int(inner)
        assert int(flops.replace(",", "")) == 8 * (8 * d * d + d * d + 4 * d * f + 6 * d * d + 2 * d * f)
    assert "derived networks need at most 1,000,000 FLOPs" in text


def test_a_plan_times_steps_where_the_first_users_are_asked_nothing() -> None:
    log = synthetic_interactions(60, 40, 8, seed=0)
    # The first 50 users ended long before the others began.
    timestamps = np.arange(len(log.items)) + 10_000 * (log.users >= 50)
    log = dataclasses.replace(log, timestamps=timestamps)
    late = timestamps[log.users >= 50]
    first, second = (float(late[int(len(late) * share)]) for share in (0.5, 0.8))
    data = temporal_split(log, boundaries=(first, second))
    assert data.valid.rows.min() >= 50
    config = SweepConfig(device="cpu", preset="smoke", max_length=8, batch_size=4)
    text = plan(config, preset_of(config), data, described="")
    assert re.search(r"on this machine: \d+ trials? at once, each with 1 CPU\n", text)


def test_a_plan_for_gpus_has_their_hours() -> None:
    """Two nodes of two GPUs; four seeds of three lambdas at half a GPU each, so eight trials at once."""
    data = leave_one_out(synthetic_interactions(40, 40, 8, seed=0))
    config = SweepConfig(
        preset="smoke", tradeoffs=(0.0, 0.1, 1.0), seeds=4, device="cuda", gpus_per_trial=0.5,
        warmup_epochs=2, search_epochs=10, retrain_epochs=20, patience=5, max_length=8,
    )  # fmt: skip
    cluster = sweeps.cluster.check_cluster(config, [{"CPU": 8.0, "GPU": 2.0}] * 2)
    assert (cluster.slots, cluster.warmup_slots) == (8, 8)
    times = EpochTimes(warmup_s=90.0, search_s=36.0, retrain_s=18.0)
    text = plan_text(config, preset_of(config), data, cluster, times, described="some data")
    # Warm-ups 180 s, all four at once; trials of 360 + 360 s, twelve on eight places: twice 720 s.
    assert "on this machine: 8 trials at once, each with 1 CPU and 0.5 GPU\n" in text
    assert "warm-ups: 4 of about 3 min 0 s, 0.20 CPU-hours and 0.10 GPU-hours\n" in text
    assert "searches: 12 of about 6 min 0 s, 1.20 CPU-hours and 0.60 GPU-hours\n" in text
    assert "retrainings: 12 of about 6 min 0 s, 1.20 CPU-hours and 0.60 GPU-hours\n" in text
    assert "estimated time: about 27 min 0 s and 2.60 CPU-hours and 1.30 GPU-hours" in text


@pytest.fixture(scope="module")
def address() -> object:
    """A cluster of two nodes, one with a GPU that is none."""
    cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=1, num_gpus=1)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def _run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    script = REPOSITORY / "pipelines" / "lambda_sweep.py"
    return subprocess.run(
        [sys.executable, str(script), *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300
    )


def test_a_plan_of_a_cluster_counts_its_nodes_and_writes_nothing(address: str, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    users = [user for user in range(30) for _ in range(9)]
    rows = (f"{user},{(user + 7 * n) % 20},{n}" for n, user in enumerate(users))
    log.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    options = ("--plan", "--data", log, "--preset", "smoke", "--max-length", 8, "--ray-address", address)

    done = _run(*options, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"on the cluster at {address}: 3 trials at once, each with 1 CPU\n" in done.stdout
    assert re.search(r"estimated time: about .* and \d+\.\d\d CPU-hours, if every lambda", done.stdout)

    # A sweep would take the GPU: the steps are timed where a trial would run, and there is no CUDA.
    done = _run(*options, cwd=tmp_path)
    assert done.returncode == 2
    assert "--plan times a few steps on cuda on a node of the cluster, and there they failed" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

    done = _run(*options, "--cpus-per-trial", 4, cwd=tmp_path)
    assert done.returncode == 2
    assert "--cpus-per-trial 4 is more than the 2 CPUs that Ray has on a node" in done.stderr
    assert list(tmp_path.iterdir()) == [log]


def test_a_plan_asks_for_no_more_than_there_is() -> None:
    data = leave_one_out(synthetic_interactions(40, 40, 8, seed=0))
    config = SweepConfig(preset="smoke", max_length=8, cpus_per_trial=1000)
    with pytest.raises(InputError, match="--cpus-per-trial 1000 is more than the"):
        plan(config, preset_of(config), data, described="")
