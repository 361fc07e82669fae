"""What ablations change, and what they leave alone."""

import dataclasses
import itertools
from typing import Any

import pytest

from easrec.data.sequences import SplitData, leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from easrec.nas.course import validation_stream
from easrec.nas.search_config import SearchConfig
from sweeps.ablate import Variant, variants
from sweeps.ablate_config import AblateConfig
from sweeps.command_line import parse
from sweeps.compare import Comparison
from sweeps.presets import Preset

# Where a variant may differ from the preset.
CHANGED = {
    "gates": {"gate_layers"},
    "attention": {"attention", "batch_size", "controller_batch_size"},
    "key-norm": {"key_norm"},
    "depth-cost": {"depth_cost"},
    "weights": {"weights", "warmup_paths"},
    "search-weights": {"search_weights", "warmup_epochs", "search_epochs", "stable_epochs", "ndcg_patience"},
    "warmup": {"warmup_epochs", "warmup_paths", "search_epochs", "stable_epochs", "ndcg_patience"},
}


@pytest.fixture(scope="module")
def data() -> SplitData:
    return leave_one_out(synthetic_interactions(60, 40, 12, seed=0))


def made(data: SplitData, **options: Any) -> tuple[Preset, list[Variant]]:
    config = AblateConfig(**options)
    config.check()
    preset = Comparison.preset_for(config)
    return preset, variants(preset, config.chosen, data)


def changes(preset: Preset, other: Preset) -> set[str]:
    return {
        field.name
        for part in ("space", "search", "retrain")
        for field in dataclasses.fields(getattr(preset, part))
        if getattr(getattr(preset, part), field.name) != getattr(getattr(other, part), field.name)
    }


def questions(data: SplitData, search: SearchConfig) -> list[int]:
    """Targets of the first controllers' steps."""
    batches = itertools.islice(validation_stream(data, search, 1), 3)
    return [int((batch.targets > 0).sum()) for batch in batches]


@pytest.mark.parametrize("name", ["quick", "paper"])
def test_each_variant_changes_its_own_setting_and_one_of_each_group_none(name: str, data: SplitData) -> None:
    preset, found = made(data, preset=name)
    groups: dict[str, list[set[str]]] = {}
    for one in found:
        changed = changes(preset, one.preset)
        assert changed <= CHANGED[one.group], one
        groups.setdefault(one.group, []).append(changed)
    assert list(groups) == list(CHANGED)
    for group, all_changes in groups.items():
        assert all_changes.count(set()) == 1, group
        assert len(all_changes) == {"gates": 3, "depth-cost": 4, "warmup": 3}.get(group, 2)
    assert len({one.method for one in found}) == len(found)


@pytest.mark.parametrize("name", ["quick", "paper"])
def test_a_run_without_a_warm_up_has_as_many_epochs(name: str, data: SplitData) -> None:
    _, found = made(data, preset=name, groups=("warmup",))
    mixture, sandwich, without = (one.preset.search for one in found)
    assert mixture.warmup_epochs > 0 and without.warmup_epochs == 0
    assert mixture.warmup_epochs + mixture.search_epochs == without.search_epochs
    assert sandwich == dataclasses.replace(mixture, warmup_paths="sandwich")


def test_steps_have_as_many_targets_with_other_attention(data: SplitData) -> None:
    preset, found = made(data, preset="quick", groups=("attention",))
    causal, bidirectional = (one.preset for one in found)
    assert causal == preset
    # A window has many targets, a prefix one.
    assert bidirectional.search.batch_size > 3 * causal.search.batch_size
    assert bidirectional.retrain.batch_size > 3 * causal.retrain.batch_size
    # A question of the controllers is one target in either form.
    assert questions(data, bidirectional.search) == questions(data, causal.search)


def test_the_preset_is_whatever_the_user_makes_it(data: SplitData) -> None:
    preset, found = made(data, gate_layers=1, groups=("gates",))
    assert [one.value for one in found if one.preset == preset] == [1]
    assert [one.value for one in found] == [2, 1, 0]
    preset, found = made(data, weights="shared", groups=("weights",))
    assert [(one.preset.space.weights, one.preset.search.warmup_paths) for one in found] == [
        ("independent", "mixture"),
        ("shared", "sandwich"),
    ]
    assert found[1].preset == preset
    preset, found = made(data, weights="shared", warmup_paths="mixture", groups=("weights",))
    assert found[1].preset == preset
    preset, found = made(data, search_weights="freeze", groups=("search-weights",))
    assert [one.value for one in found if one.preset == preset] == ["freeze"]
    assert [changes(preset, one.preset) for one in found] == [{"search_weights"}, set()]


def test_what_else_a_setting_brings_along_is_named(data: SplitData) -> None:
    _, found = made(data, preset="quick", groups=("weights", "warmup"))
    labels = {one.method: one.label for one in found}
    assert labels["weights-independent"] == "independent weights"
    assert labels["weights-shared"] == "shared weights, warm-up of three networks a step"
    assert labels["warmup-0"] == "no warm-up, retrained from fresh weights"
    _, found = made(data, preset="quick", weights="shared", warmup_paths="mixture", groups=("weights",))
    assert [one.label for one in found] == ["independent weights", "shared weights"]
    _, found = made(data, preset="quick", transfer_from="fresh", groups=("warmup",))
    assert found[-1].label == "no warm-up"


def test_weights_at_rest_are_always_those_of_a_warm_up(data: SplitData) -> None:
    preset, found = made(data, search_weights="freeze")
    assert {one.preset.search.warmup_epochs for one in found} == {preset.search.warmup_epochs}
    assert [one.value for one in found if one.group == "warmup"] == ["mixture", "sandwich"]


@pytest.mark.parametrize("group", ["warmup", "search-weights"])
def test_a_warm_up_that_is_set_beside_none_leaves_the_search_an_epoch(group: Any, data: SplitData) -> None:
    preset, found = made(data, preset="paper", search_epochs=3, groups=(group,))
    assert preset.search.warmup_epochs == 0
    for one in found:
        search = one.preset.search
        assert search.warmup_epochs + search.search_epochs == 3
        assert search.warmup_epochs in (0, 2)
    with pytest.raises(InputError, match=f"--groups {group} sets a warm-up.*--search-epochs 1 leaves none"):
        made(data, preset="paper", search_epochs=1, groups=(group,))


@pytest.mark.parametrize("group", ["attention", "key-norm"])
def test_softmax_attention_has_no_forms_of_linear_attention(group: Any, data: SplitData) -> None:
    with pytest.raises(InputError, match=f"--groups {group} compares forms of linear attention"):
        made(data, attention="softmax", groups=(group,))
    assert made(data, attention="softmax", groups=("gates",))[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": ("gate",)}, "--groups must be some of gates, attention, .*, got gate"),
        ({"groups": ("gates", "gates")}, "--groups names gates twice"),
        ({"beside_paper": True}, "the paper's Table V is of ml-1m, and the data are ml-100k"),
        (
            {"beside_paper": True, "dataset": "ml-1m", "groups": ("warmup",)},
            "--beside-paper belongs to --groups gates",
        ),
        ({"timings": 0}, "--timings must be at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AblateConfig(**settings).check()


def test_an_unknown_group_is_named_on_the_command_line() -> None:
    with pytest.raises(InputError, match=r"--groups must be one of attention, .*, got"):
        parse(AblateConfig, "ablate.py", ["--groups", "gate"])
