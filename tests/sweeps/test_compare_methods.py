"""The terms of a comparison: equal where they should be, and refused where they make no sense."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from easrec.baselines import attention_dropout_of, baseline_architecture
from easrec.data.feature_table import FeatureTable
from easrec.data.sequences import SplitData, leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from easrec.nas.alternating import without_unused
from easrec.nas.course import validation_stream
from easrec.nas.resources import network_flops
from easrec.nas.training_cost import EpochSize, search_flops, warmup_flops
from sweeps.command_line import parse
from sweeps.compare import Comparison
from sweeps.compare_config import ELSEWHERE, LABELS, READ_FEATURES, CompareConfig
from sweeps.compare_methods import contestants_of, equal_batch, equal_steps
from sweeps.compare_paper import paper_accuracy, paper_costs, paper_gates, paper_settings
from sweeps.compare_trial import Contestant, Searched, Trained, Tried
from tests.sweeps.tiny_features import tiny_features


@pytest.fixture(scope="module")
def data() -> SplitData:
    return leave_one_out(synthetic_interactions(60, 40, 12, seed=0))


@pytest.fixture(scope="module")
def features() -> FeatureTable:
    return tiny_features(40)


def contestants(data: SplitData, features: FeatureTable | None, **options: Any) -> dict[str, Contestant]:
    config = CompareConfig(**options)
    config.check()
    preset = Comparison.preset_for(config)
    found = contestants_of(config, preset, data, features, device="cpu", code_version="x")
    return {f"{one.method}/{one.trial.seed}": one for one in found}


@pytest.mark.parametrize("preset", ["smoke", "quick", "paper"])
def test_methods_agree_in_all_that_is_to_be_equal(
    preset: str, data: SplitData, features: FeatureTable
) -> None:
    found = contestants(data, features, preset=preset, seeds=2, exhaustive=True, tradeoff=0.3)
    assert list(dict.fromkeys(one.method for one in found.values()))[-1] == "random"
    assert {one.method for one in found.values()} == set(LABELS)
    assert len({one.trial_id for one in found.values()}) == len(found) == 2 * len(LABELS)
    ours = found["easrec/0"].trial
    assert ours.search.tradeoff == 0.3
    for one in found.values():
        assert one.trial.data_checksum == data.checksum
        assert one.trial.retrain.seed == one.trial.seed
        for name in ("learning_rate", "max_epochs", "patience", "dropout", "loss", "max_length"):
            assert getattr(one.trial.retrain, name) == getattr(ours.retrain, name), (one.method, name)
        if isinstance(one, Searched):
            search = one.trial.search
            assert search.warmup_epochs + search.search_epochs == (
                ours.search.warmup_epochs + ours.search.search_epochs
            )
            earliest = search.warmup_epochs + search.stable_epochs
            assert earliest == ours.search.warmup_epochs + ours.search.stable_epochs


@pytest.mark.parametrize("preset", ["smoke", "quick", "paper"])
@pytest.mark.parametrize("method", ["darts", "proxylessnas", "recnas"])
def test_other_searches_choose_among_plain_softmax_networks(
    preset: str, method: str, data: SplitData, features: FeatureTable
) -> None:
    found = contestants(data, features, preset=preset, methods=(method, "easrec"))
    own, ours = found[f"{method}/0"].trial, found["easrec/0"].trial
    assert own.method is not None
    assert own.search == without_unused(own.method, own.search)
    assert (own.space.attention, own.space.gate_layers) == ("softmax", 0)
    assert [own.space.sizes(k) for k in range(len(own.space))] == [
        ours.space.sizes(k) for k in range(len(ours.space))
    ]
    assert own.transfer_from == "fresh"
    assert own.search.tradeoff == (0.0 if method == "darts" else ours.search.tradeoff)
    # Other searches with the settings of EASRec would be other entries of the store.
    assert own.search_key != dataclasses.replace(own, method=None).search_key


@pytest.mark.parametrize("preset", ["smoke", "quick", "paper"])
def test_recnas_searches_under_a_bound_and_anneals_to_the_floor(
    preset: str, data: SplitData, features: FeatureTable
) -> None:
    found = contestants(data, features, preset=preset, methods=("recnas", "darts"), recnas_budget=0.25)
    search, space = found["recnas/0"].trial.search, found["recnas/0"].trial.space
    largest = network_flops(space.architecture(0, space.num_layers), search.max_length)
    assert search.max_flops == largest // 4
    for steps in (30, 3_000):
        assert search.temperature.at(0, planned_steps=steps) == 1
        assert search.temperature.at(steps, planned_steps=steps) == pytest.approx(search.temperature.floor)
    assert found["darts/0"].trial.search.max_flops is None
    given = contestants(data, features, preset=preset, methods=("recnas",), max_flops=largest // 2)
    assert given["recnas/0"].trial.search.max_flops == largest // 2
    steady = contestants(data, features, preset="quick", methods=("recnas",), temperature_kind="constant")
    assert steady["recnas/0"].trial.search.temperature.kind == "linear"


@pytest.mark.parametrize(
    ("settings", "method", "remedy"),
    [
        ({"max_flops": 1}, "ProxylessNAS", "raise --max-flops, or"),
        ({"recnas_budget": 0.001}, "RecNAS", "raise --max-flops or --recnas-budget"),
    ],
)
def test_a_bound_that_leaves_a_search_nothing_is_refused(
    settings: dict[str, Any], method: str, remedy: str, data: SplitData, features: FeatureTable
) -> None:
    # Networks of softmax attention need more at this length, so that a bound may suit EASRec alone.
    options: dict[str, Any] = {"preset": "quick", "max_length": 200, "methods": ("easrec", "proxylessnas")}
    space = contestants(data, features, **options)["easrec/0"].trial.space
    if "max_flops" in settings:
        settings = {"max_flops": network_flops(space.architecture(len(space) - 1, 1), 200)}
    else:
        options["methods"] = ("recnas",)
    with pytest.raises(InputError, match=rf"leaves {method} \+ SASRec no network.*{remedy}"):
        contestants(data, features, **options, **settings)


def test_random_and_exhaustive_search_keep_to_the_bound(data: SplitData, features: FeatureTable) -> None:
    bound = 2_000_000
    found = contestants(data, features, preset="quick", methods=("random",), exhaustive=True, max_flops=bound)
    trial = found["exhaustive/0"].trial
    for name in ("random", "exhaustive"):
        one = found[f"{name}/0"]
        assert isinstance(one, Tried)
        tried = one.architectures()
        within = [
            architecture
            for candidate, layers in itertools.product(range(len(trial.space)), range(1, 5))
            if network_flops(architecture := trial.space.architecture(candidate, layers), 50) <= bound
        ]
        assert sorted(map(str, tried)) == sorted(map(str, within))
        assert 0 < len(tried) < 4 * len(trial.space)


def test_a_step_has_as_many_targets_whatever_the_form_of_training(data: SplitData) -> None:
    preset = Comparison.preset_for(CompareConfig(preset="paper"))
    causal = dataclasses.replace(preset.space, attention="softmax")
    windows = equal_batch(preset.search, preset.space, causal, data)
    size = EpochSize.of(data, preset.search.max_length, causal)
    assert windows * size.targets / size.sequences == pytest.approx(preset.search.batch_size, rel=0.02)
    assert equal_batch(preset.search, causal, causal, data) == preset.search.batch_size
    # The controllers are asked as much in either form, which prices the search too.
    ours = dataclasses.replace(preset.search, batch_size=40)
    theirs = equal_steps(ours, preset.space, causal, data)
    asked = [next(validation_stream(data, one, 1)).targets.count_nonzero() for one in (ours, theirs)]
    assert asked[0] == asked[1] == 40 > 3 * theirs.batch_size
    many = dataclasses.replace(theirs, controller_batch_size=2 * theirs.validation_batch_size)
    once, twice = (search_flops(causal, data, one, 1) for one in (theirs, many))
    of_weights = warmup_flops(causal, data, theirs.max_length, 1)
    assert twice - of_weights == pytest.approx(2 * (once - of_weights))
    assert equal_steps(preset.search, causal, causal, data) == preset.search


@pytest.mark.parametrize("size", ["linrec", "supernet"])
def test_baselines_have_the_size_that_is_asked(size: Any, data: SplitData, features: FeatureTable) -> None:
    found = contestants(data, features, size=size, preset="quick")
    space = found["easrec/0"].trial.space
    for name in ("sasrec", "fdsa", "sasrecf"):
        for suffix, attention in (("", "softmax"), ("-linrec", "linear")):
            one = found[f"{name}{suffix}/0"]
            assert isinstance(one, Trained)
            assert one.baseline == name
            assert one.architecture == baseline_architecture(space, attention=attention, size=size)  # type: ignore[arg-type]
            assert one.attention_dropout == attention_dropout_of(size, attention)  # type: ignore[arg-type]
            assert (one.features is None) == (name == "sasrec")


def test_heads_that_do_not_divide_the_width_are_those_of_a_size(
    data: SplitData, features: FeatureTable
) -> None:
    four: dict[str, Any] = {"hidden_size": 36, "num_heads": 4, "preset": "quick"}
    four |= {"hidden_intensities": (0.0,), "inner_intensities": (0.0,), "methods": ("sasrec",)}
    message = r"SASRec \(w/o LinRec\) at --size linrec: .*hidden_size=36, num_heads=8; give another"
    with pytest.raises(InputError, match=message):
        contestants(data, features, **four)
    assert contestants(data, features, size="supernet", **four)


def test_methods_that_read_no_features_do_not_depend_on_them(data: SplitData, features: FeatureTable) -> None:
    with_them = contestants(data, features, methods=("sasrec", "fdsa"))
    others = contestants(data, tiny_features(40, seed=1), methods=("sasrec", "fdsa"))
    assert with_them["sasrec/0"].trial_id == others["sasrec/0"].trial_id
    assert with_them["fdsa/0"].trial_id != others["fdsa/0"].trial_id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("easrec", "nas")}, "--methods must be some of easrec, darts, .*, got nas"),
        ({"methods": ("easrec", "easrec")}, "--methods names easrec twice"),
        ({"methods": ("fdsa",), "without_features": True}, "names fdsa, which --without-features leaves out"),
        (
            {"features": Path("a"), "without_features": True},
            "--features says what to read, and --w",
        ),
        ({"feature_names": ("a",), "without_features": True}, "--feature-names says what to read, and"),
        ({"tradeoff": -1.0}, "--tradeoff must be a finite number of at least 0, got -1"),
        ({"recnas_budget": 0.0}, r"--recnas-budget must lie in \(0, 1\], got 0"),
        ({"timings": 0}, "--timings must be at least 1, got 0"),
        ({"beside_paper": True}, "the paper has no figures of ml-100k; it has those of ml-1m, gowalla"),
        ({"seeds": 0}, "--seeds must be at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CompareConfig(**settings).check()


@pytest.mark.parametrize("option", sorted(ELSEWHERE))
def test_options_of_a_sweep_that_would_change_nothing_are_told_apart(option: str) -> None:
    words = [option] if option in ("--plan", "--independent") else [option, "1"]
    with pytest.raises(InputError, match=f"{option} is an option of lambda_sweep.py"):
        parse(CompareConfig, "compare.py", words, elsewhere=ELSEWHERE)


def test_an_unknown_method_is_named_on_the_command_line() -> None:
    with pytest.raises(InputError, match=r"--methods must be one of darts, .*, got"):
        parse(CompareConfig, "compare.py", ["--methods", "nas"])


def test_what_is_compared_may_change_when_a_comparison_is_resumed() -> None:
    plain = CompareConfig(features=Path("a.parquet"))
    more = CompareConfig(features=Path("a.parquet"), methods=("easrec",), timings=2, exhaustive=True)
    assert plain.result_settings() == more.result_settings()
    # Wherever it is resumed.
    assert plain.result_settings() == CompareConfig(features=Path("a.parquet").resolve()).result_settings()
    assert plain.result_settings() != CompareConfig(features=Path("a.parquet"), tradeoff=1).result_settings()


def test_methods_left_out_are_left_out() -> None:
    assert "exhaustive" not in CompareConfig().chosen
    assert CompareConfig(exhaustive=True, methods=("random",)).chosen == ("random", "exhaustive")
    assert not set(CompareConfig(without_features=True).chosen) & set(READ_FEATURES)


@pytest.mark.parametrize("dataset", ["ml-1m", "gowalla", "douban"])
def test_the_papers_figures_are_there_for_every_method_of_its_tables(dataset: str) -> None:
    config = CompareConfig(dataset=dataset, beside_paper=True)
    config.check()
    assert config.paper_name is not None
    names = {LABELS[name] for name in LABELS if name not in ("random", "exhaustive")}
    accuracy, costs = paper_accuracy(config.paper_name), paper_costs(config.paper_name)
    assert set(accuracy.index) == set(costs.index) == names
    assert accuracy.to_numpy().min() > 0 and accuracy.to_numpy().max() < 1
    assert costs.to_numpy().min() > 0


@pytest.mark.parametrize(
    ("measured", "place"),
    [
        ({"cpu": "Z80"}, "measured on Z80"),
        ({"cpu": "Z80", "gpu": "A100"}, "measured on A100"),
        ({}, "not measured"),
    ],
)
def test_beside_the_papers_figures_stands_what_ours_were_measured_on(
    measured: dict[str, str], place: str, data: SplitData, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = object.__new__(Comparison)
    comparison.config = CompareConfig(dataset="ml-1m", beside_paper=True)
    comparison.preset, comparison.data = Comparison.preset_for(comparison.config), data
    monkeypatch.setattr(Comparison, "_measured", lambda self: {("a", 0): measured})
    ours, papers = comparison.differs()
    assert ours.endswith(f"1 seed, {place}") and papers == paper_settings("ML-1M")


def test_the_papers_figures_are_those_that_it_prints() -> None:
    assert paper_accuracy("ML-1M")["test_ndcg10"]["EASRec"] == 0.4661
    assert paper_costs("Gowalla")["gpu_memory_gb"]["FDSA (w/o LinRec)"] == 21.68
    assert "64,115 users and 164,532 items, N = 100, supernet 4 x 64/256" in paper_settings("Gowalla")
    assert paper_gates()["valid_ndcg10"].to_dict() == {2: 0.4910, 1: 0.4771, 0: 0.4615}
