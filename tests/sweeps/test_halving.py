"""Which trials go on at a rung, and that Ray Tune stops the others."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.cluster import ray_cluster  # before Ray, whose settings it chooses
from sweeps.config import SweepConfig
from sweeps.halving import MultiObjectiveHalving, Rung, crowding_distances

from ray import tune  # isort: skip


def scheduler(**settings: Any) -> MultiObjectiveHalving:
    return MultiObjectiveHalving({"ndcg": "max", "flops": "min"}, **settings)


def report(epoch: int, ndcg: float, flops: float, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "ndcg": ndcg, "flops": flops, **more}


def test_the_first_at_a_rung_goes_on_and_what_it_beats_does_not() -> None:
    judge = scheduler(first=2).judge
    assert judge("good", report(2, 0.2, 10.0))
    assert not judge("worse and dearer", report(2, 0.1, 20.0))
    assert judge("worse and cheaper", report(2, 0.1, 5.0))
    assert judge("better and dearer", report(2, 0.3, 20.0))


def test_nobody_is_judged_between_rungs_or_twice_at_one() -> None:
    judged = scheduler(first=2, factor=3)
    assert judged.judge("a", report(2, 0.2, 10.0))
    assert judged.judge("b", report(1, 0.1, 20.0))
    assert not judged.judge("b", report(2, 0.1, 20.0))
    assert judged.judge("a", report(5, 0.01, 10.0))
    assert [rung.epochs for rung in judged.rungs] == [2]
    assert judged.judge("a", report(6, 0.2, 10.0))
    assert [rung.epochs for rung in judged.rungs] == [2, 6]


def test_a_trial_that_skips_rungs_is_judged_at_each() -> None:
    judged = scheduler(first=1, factor=2)
    judged.judge("a", report(4, 0.2, 10.0))
    assert [(rung.epochs, len(rung.values)) for rung in judged.rungs] == [(1, 1), (2, 1), (4, 1)]


def test_the_best_share_by_rank_goes_on_beside_the_front() -> None:
    judged = scheduler(first=1, factor=2)
    for number, (ndcg, flops) in enumerate([(0.9, 1.0), (0.5, 2.0), (0.1, 3.0)]):
        judged.judge(str(number), report(1, ndcg, flops))
    # Of four, two go on: the one on the front, and of the beaten the best.
    assert judged.judge("second", report(1, 0.8, 1.5))
    assert not judged.judge("last", report(1, 0.05, 4.0))


def test_trials_of_one_subject_do_not_beat_each_other() -> None:
    judged = scheduler(first=1)
    assert judged.judge("a", report(1, 0.2, 10.0, subject="same"))
    assert judged.judge("b", report(1, 0.1, 10.0, subject="same"))
    assert len(judged.rungs[0].values) == 1


@pytest.mark.parametrize("ndcg", [math.nan, math.inf])
def test_what_is_not_finite_stops_nobody_and_beats_nobody(ndcg: float) -> None:
    judged = scheduler(first=1)
    assert judged.judge("a", report(1, ndcg, 1.0))
    assert judged.judge("b", {"status": "finished"})
    assert judged.judge("c", {"epoch": 1, "ndcg": 0.1})
    assert judged.rungs[0].values == {}


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12), st.integers(2, 4))
@settings(max_examples=200, deadline=None)
def test_whom_nobody_beats_always_goes_on(points: list[tuple[int, int]], factor: int) -> None:
    rung = Rung(1)
    for number, (loss, flops) in enumerate(points):
        before = points[:number]
        beaten = any(a <= loss and b <= flops and (a, b) != (loss, flops) for a, b in before)
        goes_on = rung.goes_on(str(number), (float(loss), float(flops)), 1 / factor)
        if not beaten:
            assert goes_on
        elif goes_on:  # beaten, then: there is room for it among the best
            better = sum(a <= loss and b <= flops and (a, b) != (loss, flops) for a, b in before)
            assert better < math.ceil((number + 1) / factor)


def test_crowding_prefers_the_ends_and_the_emptier_parts() -> None:
    points = np.array([[0.0, 10.0], [1.0, 9.0], [2.0, 8.0], [9.0, 1.0], [10.0, 0.0]])
    distances = crowding_distances(points, np.zeros(5))
    assert math.isinf(distances[0]) and math.isinf(distances[4])
    assert distances[2] > distances[1]


def test_settings_that_make_no_rungs_are_refused() -> None:
    with pytest.raises(ValueError, match="first must be at least 1 and factor at least 2"):
        scheduler(factor=1)
    with pytest.raises(ValueError, match="at least one objective"):
        MultiObjectiveHalving({})


@pytest.mark.slow
def test_ray_stops_trials_that_are_beaten(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for epoch in range(1, 20):
            tune.report(report(epoch, config["ndcg"] * epoch, config["flops"]))

    stopped = []
    with ray_cluster(SweepConfig()):
        results = tune.Tuner(
            tune.with_resources(train, {"CPU": 1}),
            param_space=tune.grid_search(
                [{"ndcg": 0.2, "flops": 1.0}, {"ndcg": 0.1, "flops": 2.0}, {"ndcg": 0.3, "flops": 3.0}]
            ),
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                max_concurrent_trials=1,
                scheduler=scheduler(first=3, on_stop=lambda config, last: stopped.append((config, last))),
            ),
            run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        ).fit()
    assert sorted((one.config["flops"], one.metrics["epoch"]) for one in results) == [
        (1.0, 19), (2.0, 3), (3.0, 19),
    ]  # fmt: skip
    assert [(config["flops"], last["epoch"]) for config, last in stopped] == [(2.0, 3)]
