import dataclasses
import re

import numpy as np
import pytest

import sweeps.cluster  # isort: skip  (before Ray, see there)

from easrec.data.sequences import leave_one_out
from easrec.data.splits import temporal_split
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from sweeps.config import SweepConfig
from sweeps.estimate import EpochTimes
from sweeps.plan import preset_of
from sweeps.plan_text import plan, plan_text
from sweeps.plan_timing import Timed


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
    assert re.search(r"  measurements: 2 of about \d+ s, one at a time, \d+\.\d\d CPU-hours\n", text)


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
    timed = Timed(cluster, cluster.measuring_place(None, 1), times, measure_s=36.0)
    text = plan_text(config, preset_of(config), data, timed, described="some data")
    # Warm-ups 180 s, all four at once; trials of 360 + 360 s, twelve on eight places: twice 720 s.
    assert "on this machine: 8 trials at once, each with 1 CPU and 0.5 GPU\n" in text
    assert "warm-ups: 4 of about 3 min 0 s, 0.20 CPU-hours and 0.10 GPU-hours\n" in text
    assert "searches: 12 of about 6 min 0 s, 1.20 CPU-hours and 0.60 GPU-hours\n" in text
    assert "retrainings: 12 of about 6 min 0 s, 1.20 CPU-hours and 0.60 GPU-hours\n" in text
    # Two layers of three candidates are six architectures.
    assert "measurements: 6 of about 36 s, one at a time, 0.06 CPU-hours and 0.03 GPU-hours\n" in text
    assert "estimated time: about 30 min 36 s and 2.66 CPU-hours and 1.33 GPU-hours" in text
    assert "--halve-after" not in text
    halved = dataclasses.replace(config, halve_after=4)
    (line,) = set(plan_text(halved, preset_of(halved), data, timed, described="some data").split("\n")) - set(
        text.split("\n")
    )
    assert line.startswith("--halve-after 4: retrainings that are stopped make it less")


def test_a_plan_asks_for_no_more_than_there_is() -> None:
    data = leave_one_out(synthetic_interactions(40, 40, 8, seed=0))
    config = SweepConfig(preset="smoke", max_length=8, cpus_per_trial=1000)
    with pytest.raises(InputError, match="--cpus-per-trial 1000 is more than the"):
        plan(config, preset_of(config), data, described="")


def test_a_plan_on_this_machine_has_no_node_kept_for_measuring() -> None:
    data = leave_one_out(synthetic_interactions(40, 40, 8, seed=0))
    config = SweepConfig(preset="smoke", max_length=8, measure_on="cpu")
    with pytest.raises(
        InputError, match="--measure-on cpu needs a node with the Ray resource 'latency', and"
    ):
        plan(config, preset_of(config), data, described="")
