"""Importances: what matters stands out from chance, and silence where nothing can be said."""

import numpy as np
import pytest

from sweeps.importance import FEWEST_TRIALS, importances, varying_params

SHARED = {"preset": "quick", "search.tradeoff": "0.1", "data.users": "943"}


def trials(number, seed=0):
    """Settings of trials, of which `lr` and `kind` are drawn and the rest is the same."""
    generator = np.random.default_rng(seed)
    rates = 10 ** generator.uniform(-4, -1, number)
    kinds = generator.choice(["cosine", "linear"], number)
    return [
        SHARED | {"lr": repr(float(rate)), "kind": str(kind), "architecture.hidden_size": str(step)}
        for step, (rate, kind) in enumerate(zip(rates, kinds, strict=True))
    ]


def test_what_decides_the_result_is_above_chance_and_noise_is_not():
    params = trials(40)
    noise = np.random.default_rng(1).normal(0, 0.05, 40)
    values = [np.log10(float(own["lr"])) + other for own, other in zip(params, noise, strict=True)]
    first, second = importances(params, values).found
    assert (first.name, second.name) == ("lr", "kind")
    assert first.above_chance and first.share > 0.9
    assert not second.above_chance
    assert first.share + second.share == pytest.approx(1)


@pytest.mark.slow
def test_results_of_chance_alone_are_called_so():
    wrong = 0
    for seed in range(8):
        values = np.random.default_rng(seed).normal(size=20)
        wrong += any(found.above_chance for found in importances(trials(20), values).found)
    # Two settings whose shares sum to one are both above chance, or one is, in about one of twenty.
    assert wrong <= 2


def test_equal_trials_give_equal_importances():
    params, values = trials(20), np.random.default_rng(0).normal(size=20)
    assert importances(params, values) == importances(params, values)


@pytest.mark.parametrize(
    ("params", "values", "sentence"),
    [
        ([SHARED] * 20, range(20), "All trials had the same settings"),
        (trials(FEWEST_TRIALS - 1), range(FEWEST_TRIALS - 1), "9 finished trials are too few"),
        ([SHARED | {"lr": str(step)} for step in range(20)], range(20), "Only lr differs"),
        (trials(20), [0.5] * 20, "All trials had the same result"),
    ],
    ids=["nothing differs", "too few", "one differs", "one result"],
)
def test_where_nothing_can_be_said_it_says_why(params, values, sentence):
    found = importances(params, list(values))
    assert found.found == [] and found.silence.startswith(sentence)


def test_settings_are_numbers_where_all_values_are():
    params = [{"a": "1e-3", "b": "x", "c": "1", "d": "5"}, {"a": "2", "b": "7", "c": "1"}]
    assert varying_params(params) == {"a": [0.001, 2.0], "b": ["x", "7"]}
