"""Spaces, what a point of one means, and what users can change of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from easrec.data.sequences import leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.nas.resources import network_flops, network_parameters
from sweeps.bounds import Budget
from sweeps.explore_config import RANGE_OPTIONS, ExploreConfig
from sweeps.explore_plan import budget_of, explored_preset, refused_space, space_of, trials_of
from sweeps.presets import PRESETS, quick
from sweeps.spaces import SPACES, Choices, Interval, Parameter, apply, parse_set, set_text


def parameters(**options: Any) -> dict[str, Parameter]:
    config = ExploreConfig(**options)
    config.check()
    return space_of(config, explored_preset(config)).parameters()


def test_the_full_space_holds_all_that_is_searched() -> None:
    assert list(parameters()) == [
        "tradeoff",
        "temperature_kind",
        "temperature_floor",
        "temperature_fraction",
        "hidden_sets",
        "inner_sets",
        "pairing",
        "gate_layers",
        "controller_learning_rate",
        "controller_interval",
        "depth_cost",
    ]
    assert set(parameters()) | {"temperature_rate"} == set(RANGE_OPTIONS)
    assert list(parameters(space="lambda")) == ["tradeoff"]
    assert not set(parameters(space="controllers")) & {"hidden_sets", "inner_sets", "pairing", "gate_layers"}


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("space", sorted(SPACES))
def test_every_corner_of_every_space_is_a_preset(preset: Any, space: Any) -> None:
    config = ExploreConfig(preset=preset, space=space)
    base = explored_preset(config)
    for parameter in [space_of(config, base).parameters()]:
        for share in (0.0, 0.5, 0.999):
            apply({name: one.at(share) for name, one in parameter.items()}, base)


def test_a_point_becomes_the_settings_that_it_names() -> None:
    point = {
        "tradeoff": 0.123456,
        "temperature_kind": "exponential",
        "temperature_floor": 0.2,
        "temperature_fraction": 0.5,
        "hidden_sets": "0,0.25",
        "inner_sets": "0,0.5",
        "pairing": "product",
        "gate_layers": 0,
        "controller_learning_rate": 0.02,
        "controller_interval": 4,
        "depth_cost": "hard",
    }
    preset = apply(point, quick())
    assert preset.search.tradeoff == 0.123  # what a name can show
    assert preset.search.temperature.kind == "exponential"
    assert (preset.search.temperature.floor, preset.search.temperature.fraction) == (0.2, 0.5)
    assert (preset.search.controller_learning_rate, preset.search.controller_interval) == (0.02, 4)
    assert preset.search.depth_cost == "hard"
    space = preset.space
    assert (space.hidden_intensities, space.inner_intensities) == ((0.0, 0.25), (0.0, 0.5))
    assert len(space) == 4 and space.gate_layers == 0
    # All else is the preset's.
    assert preset.retrain == quick().retrain
    assert preset.search.warmup_settings() == quick().search.warmup_settings()


def test_a_rate_takes_the_place_of_the_fraction_where_the_kind_has_one() -> None:
    names = parameters(temperature_rate_range=(1e-4, 1e-2))
    assert "temperature_fraction" not in names
    assert names["temperature_rate"] == Interval(1e-4, 1e-2, log=True)
    falling = apply({"temperature_kind": "linear", "temperature_rate": 0.001}, quick())
    assert falling.search.temperature.rate == 0.001
    other = apply({"temperature_kind": "cosine", "temperature_rate": 0.001}, quick())
    assert other.search.temperature.rate is None


def test_users_say_what_to_choose_from() -> None:
    found = parameters(
        tradeoff_range=(0.01, 10.0),
        hidden_sets=("0,0.5", "0,0.25"),
        inner_sets=("0,0.75",),
        gate_layer_choices=(0, 2),
        depth_costs=("hard",),
    )
    assert found["tradeoff"] == Interval(0.01, 10.0, log=True)
    assert found["hidden_sets"] == Choices(("0,0.5", "0,0.25"))
    assert found["inner_sets"] == Choices(("0,0.75",))
    assert found["gate_layers"] == Choices((0, 2))


def test_a_setting_with_one_value_is_not_searched() -> None:
    found = parameters(gate_layers=0, controller_interval=3, temperature_kind="constant")
    assert not set(found) & {"gate_layers", "controller_interval"}
    # A temperature that stays has no floor to search.
    assert not [name for name in found if name.startswith("temperature")]


def test_a_set_survives_its_text() -> None:
    assert parse_set(set_text((0.0, 0.125, 0.75))) == (0.0, 0.125, 0.75)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tradeoff_range": (1.0, 0.1)}, "--tradeoff-range must be two numbers above 0, the lower first"),
        ({"tradeoff_range": (0.0, 1.0)}, "--tradeoff-range must be two numbers above 0"),
        ({"hidden_sets": ("0,half",)}, "a set of intensities is written as 0,0.5,0.75, got '0,half'"),
        ({"hidden_sets": ("0,0.5",)}, "with pairing zip all sets .* got sets of 2 and 3"),
        ({"hidden_sets": ("0,0.99,0.5",)}, "a hidden intensity must leave a positive multiple"),
        ({"gate_layers": 1, "gate_layer_choices": (0, 1)}, "give either --gate-layer-choices or --gate-la"),
        ({"gate_layer_choices": (0, 0)}, "a choice of gate_layers comes twice: 0"),
        ({"objectives": ("accuracy",)}, "--objectives must be two or three different ones"),
        ({"objectives": ("flops", "flops")}, "--objectives must be two or three different ones"),
        ({"trials": 0}, "--trials must be at least 1, got 0"),
        ({"max_latency_ms": 0.0}, "--max-latency-ms must be above 0, got 0"),
        ({"derive_within_flops": True}, "--derive-within-flops needs --max-flops"),
        ({"study": "redis://x"}, "--study must be a database's address"),
        ({"study": "sqlite:///here.db"}, "--study must name an absolute path"),
        ({"temperature_floor_range": (0.5, 2.0)}, "temperatures must satisfy 0 < floor <= start"),
    ],
)
def test_what_cannot_be_meant_gets_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parameters(**options)


def test_the_command_of_an_exploration_repeats_its_options_and_hides_passwords(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["explore.py"])
    config = ExploreConfig(
        hidden_sets=("0,0.5", "0,0.25"),
        objectives=("accuracy", "latency"),
        tradeoff_range=(0.01, 10.0),
        study="postgresql://ann:secret@host/studies",
        output=Path("/runs/x"),
    )
    config.check()
    command = config.command()
    assert "--hidden-sets 0,0.5 0,0.25" in command
    assert "--objectives accuracy latency" in command
    assert "--tradeoff-range 0.01 10.0" in command
    assert "secret" not in command and "secret" not in str(config.result_settings())
    # A password that is hidden is looked up.
    monkeypatch.setenv("EASREC_STUDY", "postgresql://ann:secret@host/studies")
    masked = ExploreConfig(study="postgresql://ann:***@host/studies")
    assert masked.study_address == "postgresql://ann:secret@host/studies"
    monkeypatch.delenv("EASREC_STUDY")
    with pytest.raises(InputError, match="EASREC_STUDY"):
        masked.check()


def test_a_budget_says_how_far_beyond_it_a_network_is() -> None:
    network = Architecture(32, 64, 2, 4)
    flops, params = network_flops(network, 10), network_parameters(network, 100, 10)
    budget = Budget(max_flops=flops // 2, max_params=params, max_length=10, num_items=100)
    assert budget.violations({"flops": flops, "params": params, "latency_ms_p50": 3.0}) == {
        "flops": pytest.approx(1.0),
        "params": 0.0,
    }
    assert budget.refusal(network) == f"needs {flops:,} FLOPs, over --max-flops {flops // 2:,}"
    assert replace(budget, max_flops=flops).refusal(network) is None


def test_a_budget_that_no_network_of_the_space_keeps_is_refused_with_the_smallest() -> None:
    data = leave_one_out(synthetic_interactions(30, 40, 8, seed=0))
    config = ExploreConfig(preset="smoke", max_flops=1000)
    preset = explored_preset(config)
    space = space_of(config, preset)
    with pytest.raises(
        InputError, match=r"the smallest, h8-i16-l1-a4-linear-column-g0, needs .* FLOPs, over"
    ):
        budget_of(config, preset, space, data)
    # Enough for the smallest without gates: a space with two-layer gates is over it as a whole.
    smallest = network_flops(Architecture(8, 16, 1, 4, gate_layers=0), preset.search.max_length)
    config = replace(config, max_flops=smallest)
    budget = budget_of(config, preset, space, data)

    def refused(gate_layers: int) -> str | None:
        point = {"tradeoff": 1.0, "gate_layers": gate_layers}
        (trial,) = trials_of(point, config, preset, data, budget, device="cpu", code_version="1")
        return refused_space(trial)

    assert refused(0) is None
    assert "its smallest network needs" in (refused(2) or "")


def test_a_bound_reaches_the_search_only_where_it_shall_derive_within() -> None:
    config = ExploreConfig(preset="smoke", max_flops=10**6)
    assert explored_preset(config).search.max_flops is None
    assert explored_preset(replace(config, derive_within_flops=True)).search.max_flops == 10**6
