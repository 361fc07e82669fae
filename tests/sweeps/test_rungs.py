"""Which retrainings go on at a rung, and that a resumed sweep has not forgotten it."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easrec.errors import InputError
from easrec.files import write_json
from sweeps.rungs import Reached, Rungs, Verdict, crowding_distances


def reached(name: str, epoch: int, accuracy: float, flops: float, **more: Any) -> Reached:
    values: dict[str, Any] = {"architecture": name, "seed": 0, "costs": {"flops": flops}} | more
    return Reached(subject=f"{name} {values['seed']}", epoch=epoch, accuracy=accuracy, **values)


def goes_on(rungs: Rungs, one: Reached) -> bool:
    return rungs.judge(one, now_ms=5) is None


def test_the_first_at_a_rung_goes_on_and_what_it_beats_does_not() -> None:
    rungs = Rungs(2)
    assert goes_on(rungs, reached("good", 2, 0.2, 10.0))
    assert not goes_on(rungs, reached("worse and dearer", 2, 0.1, 20.0))
    assert goes_on(rungs, reached("worse and cheaper", 2, 0.1, 5.0))
    assert goes_on(rungs, reached("better and dearer", 2, 0.3, 20.0))
    assert goes_on(rungs, reached("as the good", 2, 0.2, 10.0))


def test_a_verdict_says_when_and_against_what() -> None:
    rungs = Rungs(2)
    goes_on(rungs, reached("cheap", 2, 0.15, 5.0))
    goes_on(rungs, reached("good", 2, 0.2, 10.0))
    verdict = rungs.judge(reached("bad", 2, 0.1, 2e6), now_ms=7)
    assert verdict is not None and verdict is rungs.stopped["bad 0"]
    assert verdict.sentence() == (
        "after epoch 2 of its retraining bad had reached 0.1000 at 2,000,000 FLOPs, where good had 0.2000 at "
        "10 FLOPs"
    )
    assert verdict.at_ms == 7


def test_nobody_is_judged_between_rungs_or_twice_at_one() -> None:
    rungs = Rungs(2, factor=3)
    assert goes_on(rungs, reached("a", 2, 0.2, 10.0))
    assert goes_on(rungs, reached("b", 1, 0.1, 20.0))
    assert not goes_on(rungs, reached("b", 2, 0.1, 20.0))
    for epoch in (3, 4, 5):
        assert goes_on(rungs, reached("a", epoch, 0.01, 10.0))
    assert goes_on(rungs, reached("c", 2, 0.3, 10.0))
    assert goes_on(rungs, reached("a", 2, 0.2, 10.0)), "resumed, it keeps what was found of it"
    assert {epochs: list(rung) for epochs, rung in rungs.rungs.items()} == {2: ["a 0", "b 0", "c 0"]}
    goes_on(rungs, reached("a", 6, 0.2, 10.0))
    goes_on(rungs, reached("a", 18, 0.2, 10.0))
    assert sorted(rungs.rungs) == [2, 6, 18]


def test_who_skips_rungs_is_compared_at_the_last_of_them_alone() -> None:
    """One that comes with 5 epochs behind it would beat those that come to the first rung with 1."""
    rungs = Rungs(1, factor=2)
    goes_on(rungs, reached("late", 5, 0.9, 1.0))
    assert {epochs: len(rung) for epochs, rung in rungs.rungs.items()} == {4: 1}
    assert goes_on(rungs, reached("young", 1, 0.1, 2.0))
    assert not goes_on(rungs, reached("young", 4, 0.2, 2.0))


def test_the_best_share_by_rank_goes_on_beside_the_front() -> None:
    rungs = Rungs(1, factor=2)
    for name, accuracy, flops in (("best", 0.9, 1.0), ("next", 0.5, 2.0), ("third", 0.1, 3.0)):
        goes_on(rungs, reached(name, 1, accuracy, flops))
    # Of four, two go on: the one on the front, and of the beaten the best.
    assert goes_on(rungs, reached("second", 1, 0.8, 1.5))
    assert not goes_on(rungs, reached("last", 1, 0.05, 4.0))


def test_seeds_do_not_stop_each_other() -> None:
    """Else means over seeds would be those of the lucky ones."""
    rungs = Rungs(1)
    assert goes_on(rungs, reached("a", 1, 0.2, 10.0, seed=0))
    assert goes_on(rungs, reached("a", 1, 0.1, 10.0, seed=1))
    assert goes_on(rungs, reached("b", 1, 0.1, 20.0, seed=2))
    assert not goes_on(rungs, reached("b", 1, 0.05, 20.0, seed=1))


def test_retrainings_of_one_architecture_do_not_stop_each_other() -> None:
    rungs = Rungs(1)
    one = reached("a", 1, 0.2, 10.0)
    assert goes_on(rungs, one)
    assert goes_on(rungs, dataclasses.replace(one, subject="from other weights", accuracy=0.1))


def test_what_ended_counts_at_later_rungs_with_what_it_had_reached() -> None:
    rungs = Rungs(1, factor=4)
    assert goes_on(rungs, reached("small", 3, 0.5, 1.0, last=True))
    assert goes_on(rungs, reached("large", 2, 0.6, 9.0)), "nobody has come to 1 epoch alone"
    assert not goes_on(rungs, reached("large", 4, 0.4, 9.0))
    # Before its end nobody is beaten by what it came to there.
    rungs = Rungs(4)
    goes_on(rungs, reached("small", 5, 0.5, 1.0, last=True))
    rungs.rungs.clear()
    assert goes_on(rungs, reached("large", 4, 0.4, 9.0))


def test_what_ends_in_any_case_is_not_stopped_and_is_compared_with() -> None:
    rungs = Rungs(2)
    goes_on(rungs, reached("good", 2, 0.5, 1.0))
    assert goes_on(rungs, reached("bad", 2, 0.3, 9.0, last=True))
    assert rungs.stopped == {}
    assert not goes_on(rungs, reached("worst", 2, 0.2, 10.0))


@pytest.mark.parametrize("accuracy", [math.nan, math.inf])
def test_what_is_not_finite_stops_nobody_and_beats_nobody(accuracy: float) -> None:
    rungs = Rungs(1)
    assert goes_on(rungs, reached("a", 1, accuracy, 1.0))
    assert rungs.rungs == {} and rungs.ended == {}


def test_latency_is_an_objective_where_it_is_known() -> None:
    rungs = Rungs(1)
    goes_on(rungs, reached("a", 1, 0.2, 10.0, costs={"flops": 10.0, "latency_ms": 2.0}))
    assert goes_on(rungs, reached("fast", 1, 0.1, 20.0, costs={"flops": 20.0, "latency_ms": 1.0}))
    slow = reached("slow", 1, 0.1, 20.0, costs={"flops": 20.0, "latency_ms": 3.0})
    assert Reached.from_dict(slow.to_dict() | {"trial_id": "x"}) == slow
    verdict = rungs.judge(slow, now_ms=1)
    assert verdict is not None and "20 FLOPs and 3.000 ms of its layers" in verdict.sentence()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12), st.integers(2, 4))
@settings(max_examples=200, deadline=None)
def test_whom_nobody_beats_always_goes_on(points: list[tuple[int, int]], factor: int) -> None:
    rungs = Rungs(1, factor)
    for number, (loss, flops) in enumerate(points):
        before = points[:number]
        beating = [(a, b) for a, b in before if a <= loss and b <= flops and (a, b) != (loss, flops)]
        verdict = rungs.judge(reached(str(number), 1, -float(loss), float(flops)), now_ms=1)
        if not beating:
            assert verdict is None
        elif verdict is None:  # beaten, then: there is room for it among the best
            assert len(set(beating)) < math.ceil((number + 1) / factor)
        else:
            assert (-verdict.rival.accuracy, verdict.rival.costs["flops"]) in beating


def test_crowding_prefers_the_ends_and_the_emptier_parts() -> None:
    points = np.array([[0.0, 10.0], [1.0, 9.0], [2.0, 8.0], [9.0, 1.0], [10.0, 0.0]])
    distances = crowding_distances(points, np.zeros(5))
    assert math.isinf(distances[0]) and math.isinf(distances[4])
    assert distances[2] > distances[1]


def test_rungs_are_those_of_before_when_they_are_opened_again(tmp_path: Path) -> None:
    file = tmp_path / "halving.json"
    rungs = Rungs.open(file, first=2, factor=3)
    assert not file.exists()
    goes_on(rungs, reached("good", 2, 0.2, 10.0))
    verdict = rungs.judge(reached("bad", 2, 0.1, 20.0), now_ms=3)
    goes_on(rungs, reached("good", 5, 0.3, 10.0, last=True))
    again = Rungs.open(file, first=2, factor=3)
    assert (again.rungs, again.ended, again.stopped) == (rungs.rungs, rungs.ended, rungs.stopped)
    assert again.stopped == {"bad 0": verdict}
    assert isinstance(verdict, Verdict) and Verdict.from_dict(verdict.to_dict()) == verdict
    assert goes_on(again, reached("bad", 2, 0.1, 20.0)), "it has been told before"
    assert not goes_on(again, reached("worse", 2, 0.1, 20.0))
    file.write_text(file.read_text()[:40])
    with pytest.raises(InputError, match=r"halving.json is no JSON .*: choose another --output"):
        Rungs.open(file, first=2, factor=3)


def test_settings_that_make_no_rungs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first must be at least 1 and factor at least 2"):
        Rungs(1, factor=1)
    write_json(tmp_path / "x.json", {})
    with pytest.raises(ValueError, match="first must be at least 1"):
        Rungs.open(tmp_path / "x.json", first=0, factor=2)
