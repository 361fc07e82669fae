import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easrec.data.sequences import Targets, leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.training import EpochReport
from sweeps.config import SweepConfig
from sweeps.estimate import DataSize, EpochTimes, epoch_s, estimate, few_users, wall_time_s
from sweeps.plan import preset_of


def _by_the_second(durations: list[int], slots: int) -> int:
    """When all are done, by a clock that ticks: each second every free place takes the next in line."""
    waiting, left, now = list(durations), [0] * slots, 0
    while waiting or any(left):
        for place in range(slots):
            while left[place] == 0 and waiting:
                left[place] = waiting.pop(0)
                if left[place] == 0:
                    continue
                break
        left = [max(of - 1, 0) for of in left]
        now += 1
    return now


@given(st.lists(st.integers(1, 9), max_size=25), st.integers(1, 6))
def test_the_wall_time_is_that_of_a_clock(durations: list[int], slots: int) -> None:
    assert wall_time_s([float(duration) for duration in durations], slots) == _by_the_second(durations, slots)


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.floats(0.1, 100), st.floats(0.1, 100))
def test_a_sweep_that_fills_its_places_takes_what_it_holds(
    seeds: int, slots: int, warmup_slots: int, search_s: float, retrain_s: float
) -> None:
    config = SweepConfig(
        tradeoffs=(0.0, 0.1, 1.0), warmup_epochs=2, search_epochs=5, retrain_epochs=30, patience=4
    )
    found = estimate(
        preset_of(config), EpochTimes(10.0, search_s, retrain_s), seeds=seeds, slots=slots,
        warmup_slots=warmup_slots, trial_resources={"CPU": 2.0, "GPU": 0.25}, warmup_resources={"CPU": 3.0},
        measure_s=7.0, measure_resources={"CPU": 8.0, "GPU": 1.0},
    )  # fmt: skip
    assert found.retrain_epochs == 16  # four times the patience
    trial_s = 5 * search_s + 16 * retrain_s
    waves = math.ceil(3 * seeds / slots)
    measured_s = min(3 * seeds, 12) * 7.0  # three candidates of four depths at most
    assert found.wall_s == pytest.approx(math.ceil(seeds / warmup_slots) * 20 + waves * trial_s + measured_s)
    assert found.hours("GPU") == pytest.approx((0.25 * 3 * seeds * trial_s + measured_s) / 3600)
    assert found.hours("CPU") == pytest.approx(
        (3.0 * seeds * 20 + 2.0 * 3 * seeds * trial_s + 8.0 * measured_s) / 3600
    )


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 5))
def test_a_sweep_takes_as_long_as_by_the_clock(
    seeds: int, num_tradeoffs: int, slots: int, warmup_slots: int, measure_s: int
) -> None:
    config = SweepConfig(
        tradeoffs=tuple(float(n) for n in range(num_tradeoffs)), warmup_epochs=3, search_epochs=2,
        retrain_epochs=3, patience=9,
    )  # fmt: skip
    found = estimate(
        preset_of(config), EpochTimes(1.0, 1.0, 2.0), seeds=seeds, slots=slots, warmup_slots=warmup_slots,
        trial_resources={"CPU": 1.0}, warmup_resources={"CPU": 1.0}, measure_s=measure_s,
        measure_resources={"CPU": 1.0},
    )  # fmt: skip
    trials = [2 * 1 + 3 * 2] * (seeds * num_tradeoffs)
    stages = (
        _by_the_second([3] * seeds, warmup_slots)
        + _by_the_second(trials, slots)
        + _by_the_second([measure_s] * min(len(trials), 12), 1)
    )
    assert found.wall_s == stages


def test_an_epoch_of_all_grows_by_sequences_and_what_follows_it_by_users() -> None:
    # 40 sequences in 2 s, then 3 s for 10 users; all the data have 100 times the sequences and 20 the users.
    report = EpochReport("retrain", 2, 2, {}, duration_s=5.0, timestamp_ms=0, sequences_per_s=20.0)
    assert epoch_s(report, DataSize(40, 10), DataSize(4000, 200)) == pytest.approx(100 * 2.0 + 20 * 3.0)


def test_no_more_is_retrained_than_there_are_architectures() -> None:
    config = SweepConfig(tradeoffs=tuple(float(n) for n in range(9)), hidden_intensities=(0.0, 0.5),
                         inner_intensities=(0.0, 0.5), num_layers=2)  # fmt: skip
    preset = preset_of(config)
    found = estimate(
        preset, EpochTimes(0.0, 0.0, 1.0), seeds=2, slots=1, warmup_slots=1, trial_resources={"CPU": 1.0},
        warmup_resources={"CPU": 1.0}, measure_s=1.0, measure_resources={"CPU": 1.0},
    )  # fmt: skip
    assert [stage.count for stage in found.stages] == [2, 18, 8, 4]
    assert found.wall_s == pytest.approx(8 * found.retrain_epochs + 4)


def test_an_independent_sweep_warms_up_and_retrains_for_each_trial() -> None:
    tradeoffs = tuple(float(number) for number in range(20))
    stages = {}
    for independent in (False, True):
        config = SweepConfig(tradeoffs=tradeoffs, independent=independent)
        found = estimate(
            preset_of(config), EpochTimes(1.0, 1.0, 1.0), seeds=2, slots=2, warmup_slots=2,
            trial_resources={}, warmup_resources={}, measure_s=1.0, measure_resources={},
            independent=independent,
        )  # fmt: skip
        stages[independent] = {stage.name: stage.count for stage in found.stages}
    # Twelve architectures are all that there are, so 20 trials of a seed share retrainings.
    assert stages[False] == {"warm-ups": 2, "searches": 40, "retrainings": 24, "measurements": 12}
    assert stages[True] == {"warm-ups": 40, "searches": 40, "retrainings": 40, "measurements": 12}


def test_the_users_that_are_timed_fill_the_batches() -> None:
    data = leave_one_out(synthetic_interactions(200, 40, 12, seed=0))
    preset = preset_of(SweepConfig(preset="smoke", max_length=4, batch_size=8))
    every = DataSize.of(data, preset)
    for steps in (2, 7):
        timed = DataSize.of(few_users(preset, data, steps), preset)
        one_more = every.sequences / every.users + 4  # at most, for a user of this log
        assert 8 * steps - one_more < timed.sequences <= 8 * steps
    assert DataSize.of(few_users(preset, data, 10**6), preset) == every


def test_among_the_users_that_are_timed_one_is_asked_at_the_test() -> None:
    data = leave_one_out(synthetic_interactions(200, 40, 12, seed=0))
    late = Targets(data.test.rows[150:], data.test.positions[150:])
    part = few_users(
        preset_of(SweepConfig(preset="smoke", max_length=4, batch_size=8)),
        dataclasses.replace(data, test=late),
        2,
    )
    assert (part.num_users, list(part.test.rows)) == (151, [150])
