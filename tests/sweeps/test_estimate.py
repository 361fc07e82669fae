import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.config import SweepConfig
from sweeps.estimate import EpochTimes, estimate, wall_time_s
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
    )  # fmt: skip
    assert found.retrain_epochs == 16  # four times the patience
    trial_s = 5 * search_s + 16 * retrain_s
    waves = math.ceil(3 * seeds / slots)
    assert found.wall_s == pytest.approx(math.ceil(seeds / warmup_slots) * 20 + waves * trial_s)
    assert found.hours("GPU") == pytest.approx(0.25 * 3 * seeds * trial_s / 3600)
    assert found.hours("CPU") == pytest.approx((3.0 * seeds * 20 + 2.0 * 3 * seeds * trial_s) / 3600)


def test_no_more_is_retrained_than_there_are_architectures() -> None:
    config = SweepConfig(tradeoffs=tuple(float(n) for n in range(9)), hidden_intensities=(0.0, 0.5),
                         inner_intensities=(0.0, 0.5), num_layers=2)  # fmt: skip
    preset = preset_of(config)
    found = estimate(
        preset, EpochTimes(0.0, 0.0, 1.0), seeds=2, slots=1, warmup_slots=1, trial_resources={"CPU": 1.0},
        warmup_resources={"CPU": 1.0},
    )  # fmt: skip
    assert [stage.count for stage in found.stages] == [2, 18, 8]
    assert found.wall_s == pytest.approx(8 * found.retrain_epochs)
