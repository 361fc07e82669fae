import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from easrec.errors import InputError
from easrec.nas.controllers import Controllers, TemperatureSchedule, gumbel_noise, relaxed_choice


def test_a_relaxed_choice_is_the_equation_written_out():
    logits, noise = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.5, 0.1, -0.2])
    probabilities = [math.exp(x) / sum(map(math.exp, logits.tolist())) for x in logits.tolist()]
    terms = [math.exp((math.log(p) + g) / 0.7) for p, g in zip(probabilities, noise.tolist(), strict=True)]
    expected = [term / sum(terms) for term in terms]
    assert relaxed_choice(logits, noise, 0.7).tolist() == pytest.approx(expected)


def test_low_temperatures_choose_by_the_softmax_probabilities():
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 0.0, -1.0])
    counts = torch.zeros(3)
    for _ in range(4000):
        counts += relaxed_choice(logits, gumbel_noise(3), 0.01).round()
    expected = torch.softmax(logits, 0)
    deviation = (expected * (1 - expected) / 4000).sqrt()
    assert ((counts / 4000 - expected).abs() < 4 * deviation).all()


def test_noise_has_the_gumbel_mean_and_variance():
    torch.manual_seed(0)
    noise = gumbel_noise(200_000)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)


def test_controllers_start_without_preference_and_samples_follow_the_seed():
    controllers = Controllers(3, 4)
    width, depth = controllers.probabilities()
    assert width.tolist() == pytest.approx([1 / 3] * 3)
    assert depth.tolist() == pytest.approx([1 / 4] * 4)
    torch.manual_seed(5)
    first = controllers.sample(0.5)
    torch.manual_seed(5)
    second = controllers.sample(0.5)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (TemperatureSchedule(), [1.0, 0.55, 0.1, 0.1]),
        (TemperatureSchedule(kind="exponential"), [1.0, 0.1**0.5, 0.1, 0.1]),
        (TemperatureSchedule(kind="cosine"), [1.0, 0.55, 0.1, 0.1]),
        (TemperatureSchedule(kind="constant", start=0.7), [0.7] * 4),
        (TemperatureSchedule(rate=0.01, floor=0.3), [1.0, 0.6, 0.3, 0.3]),
        (
            TemperatureSchedule(kind="exponential", rate=0.01, floor=0.4),
            [1.0, math.exp(-0.4), math.exp(-0.8), 0.4],
        ),
    ],
)
def test_schedules_at_start_half_way_floor_and_end(schedule, expected):
    found = [schedule.at(step, planned_steps=100) for step in (0, 40, 80, 100)]
    assert found == pytest.approx(expected)


@given(
    kind=st.sampled_from(["linear", "exponential", "cosine"]),
    floor=st.floats(0.01, 1),
    fraction=st.floats(0.01, 1),
    planned=st.integers(0, 500),
)
def test_temperatures_fall_and_never_below_the_floor(kind, floor, fraction, planned):
    schedule = TemperatureSchedule(kind=kind, floor=floor, fraction=fraction)
    values = [schedule.at(step, planned_steps=planned) for step in range(planned + 2)]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(values))
    assert min(values) >= floor - 1e-12
    assert values[-1] == pytest.approx(floor)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "step"}, "kind must be one of .*, got 'step'"),
        ({"floor": 2.0}, r"0 < floor <= start, got self.floor=2.0"),
        ({"fraction": 0.0}, r"must lie in \(0, 1\], got 0.0"),
        ({"rate": -1.0}, "rate must be positive"),
        ({"rate": 1.0, "kind": "cosine"}, "belongs to kind 'linear' or 'exponential'"),
    ],
)
def test_bad_schedules_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        TemperatureSchedule(**settings)
