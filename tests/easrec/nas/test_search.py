import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from easrec.data.batches import Batch, training_batches, validation_batches
from easrec.errors import InputError
from easrec.evaluation.protocols import evaluate
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.transformer import SequentialRecommender
from easrec.nas import search as search_module
from easrec.nas.candidates import IndependentLayer
from easrec.nas.controllers import Controllers, TemperatureSchedule, relaxed_choice
from easrec.nas.resources import candidate_costs
from easrec.nas.search import SearchConfig, controller_loss, search, warm_up
from easrec.nas.supernet import Supernet
from easrec.nas.warmup import _mean_loss, paths
from easrec.training import NonFiniteLossError, state_digest
from tests.easrec.chains import LENGTH, chains
from tests.randomise import randomise

SPACE = CandidateSpace(16, 32, 2, 1, (0, 0.875), (0, 0.875))
SMALLEST, NAMED = Architecture(2, 4, 1, 1), Architecture(16, 32, 1, 1)
DEPTH_COSTS = ["straight_through", "hard", "expected", "static"]


def _config(**changes):
    settings = {
        "max_length": LENGTH,
        "warmup_epochs": 1,
        "search_epochs": 3,
        "batch_size": 32,
        "learning_rate": 3e-3,
        "controller_learning_rate": 0.02,
    }
    return SearchConfig(**(settings | changes))


def _controllers_at(alpha, beta):
    supernet = randomise(Supernet(SPACE, 13, LENGTH)).double()
    with torch.no_grad():
        supernet.controllers.alpha.copy_(torch.tensor(alpha))
        supernet.controllers.beta.copy_(torch.tensor(beta))
    return supernet


@pytest.mark.parametrize("depth_cost", DEPTH_COSTS)
def test_the_controllers_gradient_is_that_of_ce_plus_lambda_times_the_hand_written_one(depth_cost):
    """dR/dalpha_j = n p_j (F_j - mean F) / (L max F); dR/dbeta_j = mean F q_j (j - E[l]) / (L max F)."""
    config = _config(tradeoff=0.7, depth_cost=depth_cost)
    batch = next(validation_batches(chains(8), LENGTH, 8, seed=0, epoch=0))
    supernet = _controllers_at([0.4, -0.3], [0.2, 0.5])
    alpha, beta = supernet.controllers.alpha, supernet.controllers.beta
    costs = candidate_costs(SPACE, "flops", LENGTH).double()
    hard_depth, temperature = 1, 0.6

    def at_fixed_noise(setting):
        torch.manual_seed(3)
        return controller_loss(
            supernet, batch, setting, costs=costs, hard_depth=hard_depth, temperature=temperature
        )[0]

    found = torch.autograd.grad(at_fixed_noise(config), (alpha, beta), allow_unused=True)
    entropy_alone = dataclasses.replace(config, tradeoff=0.0)
    of_entropy = torch.autograd.grad(at_fixed_noise(entropy_alone), (alpha, beta))
    p, q = torch.softmax(alpha, 0).detach(), torch.softmax(beta, 0).detach()
    exits = torch.tensor([1.0, 2.0], dtype=torch.float64)
    mean_cost, mean_exit, scale = (p * costs).sum(), (q * exits).sum(), 2 * costs.max()
    depth = {"static": 2.0, "expected": mean_exit}.get(depth_cost, float(hard_depth))
    of_alpha = depth * p * (costs - mean_cost) / scale
    of_beta = mean_cost * q * (exits - mean_exit) / scale
    if depth_cost in ("hard", "static"):
        of_beta = torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(found[0], of_entropy[0] + 0.7 * of_alpha, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(found[1], of_entropy[1] + 0.7 * of_beta, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("depth_cost", DEPTH_COSTS)
def test_the_controllers_gradient_equals_finite_differences(depth_cost):
    config = _config(tradeoff=0.7, depth_cost=depth_cost)
    batch = next(validation_batches(chains(8), LENGTH, 8, seed=0, epoch=0))
    supernet = _controllers_at([0.4, -0.3], [0.2, 0.5])
    alpha, beta = supernet.controllers.alpha, supernet.controllers.beta
    costs = candidate_costs(SPACE, "flops", LENGTH).double()
    exits = torch.tensor([1.0, 2.0], dtype=torch.float64)
    start = torch.cat([alpha, beta]).detach()
    mean_cost_at_start = (torch.softmax(start[:2], 0) * costs).sum()
    mean_exit_at_start = (torch.softmax(start[2:], 0) * exits).sum()
    torch.manual_seed(3)
    loss, _ = controller_loss(supernet, batch, config, costs=costs, hard_depth=1, temperature=0.6)
    found = torch.cat(torch.autograd.grad(loss, (alpha, beta)))
    torch.manual_seed(3)
    noise = [-torch.empty(2).exponential_().log() for _ in range(2)]

    def value(point):
        width = relaxed_choice(point[:2], noise[0], 0.6)
        depth = relaxed_choice(point[2:], noise[1], 0.6)
        mean_cost = (torch.softmax(point[:2], 0) * costs).sum()
        mean_exit = (torch.softmax(point[2:], 0) * exits).sum()
        resource = {
            "hard": 1 * mean_cost,
            "static": 2 * mean_cost,
            "expected": mean_exit * mean_cost,
            # The hard count gives the value, the expected depth the slope.
            "straight_through": 1 * mean_cost + (mean_exit - mean_exit_at_start) * mean_cost_at_start,
        }[depth_cost]
        return (supernet.loss(batch, width, depth) + 0.7 * resource / (2 * costs.max())).item()

    step = 1e-4
    with torch.no_grad():
        for index in range(4):
            shift = step * torch.eye(4, dtype=torch.float64)[index]
            slope = (value(start + shift) - value(start - shift)) / (2 * step)
            assert found[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_without_cross_entropy_only_the_resources_decide():
    data, config = chains(64), _config(accuracy_weight=0.0, tradeoff=0.01, warmup_epochs=0)
    result = search(data, SPACE, config)
    assert result.architecture == SMALLEST
    assert "validation_loss" not in result.epochs[0].metrics


def test_the_search_repeats_exactly_and_its_warm_up_can_be_shared():
    data = chains(64)
    whole = search(data, SPACE, _config())
    warm = warm_up(data, SPACE, _config(tradeoff=5.0))  # the trade-off has no part in a warm-up
    before = state_digest(warm.supernet)
    torch.rand(7)  # the caller's random state has no part either
    shared = search(data, SPACE, _config(), warm=warm)
    assert state_digest(shared.supernet) == state_digest(whole.supernet)
    assert [e.metrics for e in shared.epochs] == [e.metrics for e in whole.epochs]
    again = search(data, SPACE, _config(), warm=warm)
    assert state_digest(again.supernet) == state_digest(whole.supernet)
    assert state_digest(warm.supernet) == before
    other_seed = search(data, SPACE, _config(seed=1))
    assert state_digest(other_seed.supernet) != state_digest(whole.supernet)


def test_a_warm_up_of_other_settings_is_refused():
    data = chains(32)
    warm = warm_up(data, SPACE, _config(seed=1))
    with pytest.raises(InputError, match="the warm-up was made with other data"):
        search(data, SPACE, _config(), warm=warm)


def test_sampled_cost_probabilities_take_the_batchs_own_sample():
    supernet = _controllers_at([0.4, -0.3], [0.2, 0.5])
    costs = candidate_costs(SPACE, "flops", LENGTH).double()
    batch = next(validation_batches(chains(8), LENGTH, 8, seed=0, epoch=0))
    found = {}
    for kind in ("expected", "sampled"):
        config = _config(cost_probabilities=kind, tradeoff=1.0)
        torch.manual_seed(3)
        _, parts = controller_loss(supernet, batch, config, costs=costs, hard_depth=1, temperature=0.2)
        found[kind] = parts["resource"]
    torch.manual_seed(3)
    sampled = supernet.controllers.sample(0.2)[0]
    assert found["sampled"] == pytest.approx(((sampled * costs).sum() / (2 * costs.max())).item())
    assert found["sampled"] != pytest.approx(found["expected"], rel=1e-2)


def test_the_hard_depth_can_be_read_anew_at_each_controller_step():
    data = chains(320)
    config = _config(tradeoff=100.0, warmup_epochs=0, search_epochs=1, accuracy_weight=0.0)
    by_epoch = search(data, SPACE, config)
    by_step = search(data, SPACE, dataclasses.replace(config, depth_refresh="interval"))
    # The depth falls from 2 to 1 in the first step; only the refreshed term counts one layer after that.
    assert by_step.epochs[0].metrics["resource"] < 0.75 * by_epoch.epochs[0].metrics["resource"]


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    search(chains(32), SPACE, _config(search_epochs=1))
    assert torch.equal(torch.rand(3), expected)


class _Interrupted(Exception):
    pass


@pytest.mark.parametrize("paths", ["mixture", "sandwich"])
@pytest.mark.parametrize(("stage", "epoch"), [("warmup", 1), ("search", 1), ("search", 2)])
def test_an_interrupted_search_resumes_exactly(tmp_path, stage, epoch, paths):
    data, config = chains(64), _config(warmup_epochs=2, warmup_paths=paths)
    whole = search(data, SPACE, config)
    seen = []

    def interrupt(report):
        seen.append((report.stage, report.epoch))
        if seen[-1] == (stage, epoch):
            raise _Interrupted

    with pytest.raises(_Interrupted):
        search(data, SPACE, config, checkpoint_dir=tmp_path, on_epoch=interrupt)
    resumed = search(
        data, SPACE, config, checkpoint_dir=tmp_path, on_epoch=lambda r: seen.append((r.stage, r.epoch))
    )
    assert seen == [("warmup", 1), ("warmup", 2), ("search", 1), ("search", 2), ("search", 3)]
    assert state_digest(resumed.supernet) == state_digest(whole.supernet)
    assert [e.metrics for e in resumed.epochs] == [e.metrics for e in whole.epochs]


def test_checkpoints_of_other_runs_or_cut_short_are_refused(tmp_path):
    data, config = chains(32), _config(search_epochs=1)
    search(data, SPACE, config, checkpoint_dir=tmp_path)
    with pytest.raises(InputError, match="belongs to a run with other settings or other data"):
        search(data, SPACE, dataclasses.replace(config, tradeoff=0.5), checkpoint_dir=tmp_path)
    with pytest.raises(InputError, match="belongs to a run with other settings or other data"):
        search(chains(32, seed=1), SPACE, config, checkpoint_dir=tmp_path)
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot be read .*; delete it to begin again"):
        search(data, SPACE, config, checkpoint_dir=tmp_path)


def test_no_test_item_reaches_the_search():
    data = chains(64)
    marked = data.items.copy()
    marked[data.test.positions] = 1 + marked[data.test.positions] % 13
    assert (marked != data.items).sum() == 64
    planted = dataclasses.replace(data, items=marked)
    found, expected = (search(d, SPACE, _config(search_epochs=1)) for d in (planted, data))
    assert state_digest(found.supernet) == state_digest(expected.supernet)


def test_weights_learn_from_training_targets_alone_and_controllers_from_validation_targets():
    data = chains(64)
    marked = data.items.copy()
    marked[data.valid.positions] = 1 + marked[data.valid.positions] % 13
    planted = dataclasses.replace(data, items=marked)
    found, expected = (warm_up(d, SPACE, _config()) for d in (planted, data))
    assert state_digest(found.supernet) == state_digest(expected.supernet)
    found, expected = (search(d, SPACE, _config(search_epochs=1)) for d in (planted, data))
    changed = found.supernet.controllers.alpha - expected.supernet.controllers.alpha
    assert changed.abs().max() > 0


def test_frozen_weights_stay_as_the_warm_up_left_them_and_controllers_learn_in_as_many_steps(monkeypatch):
    data, steps = chains(64), {}
    for weights in ("train", "freeze"):
        counted = []

        def counting(*words, counted=counted, **settings):
            counted.append(settings["temperature"])
            return controller_loss(*words, **settings)

        monkeypatch.setattr(search_module, "controller_loss", counting)
        found = search(data, SPACE, _config(search_weights=weights))
        steps[weights] = counted
    assert steps["train"] == steps["freeze"]
    before, after = found.warm_supernet.state_dict(), found.supernet.state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name]) == (not name.startswith("controllers.")), name
    report = found.epochs[-1]
    assert "loss" not in report.metrics and report.metrics["steps"] > 0
    assert report.sequences_per_s > 0
    with pytest.raises(InputError, match=r"search_weights must be one of .* got 'frozen'"):
        _config(search_weights="frozen")
    with pytest.raises(InputError, match="search_weights 'freeze' needs weights that have learnt"):
        _config(search_weights="freeze", warmup_epochs=0)


def test_negligible_candidates_are_not_computed_in_weight_steps_and_all_are_in_controller_steps(monkeypatch):
    computed = {True: 0, False: 0}
    forward = IndependentLayer.forward

    def counted(self, *arguments, **options):
        computed[self.training] += 1
        return forward(self, *arguments, **options)

    monkeypatch.setattr(IndependentLayer, "forward", counted)
    cold = TemperatureSchedule(kind="constant", start=0.1, floor=0.1)
    config = _config(warmup_epochs=0, search_epochs=1, temperature=cold, controller_interval=1)
    search(chains(320), SPACE, config)
    steps, all_layers = 10, len(SPACE) * SPACE.num_layers
    assert computed[False] == steps * all_layers
    assert steps <= computed[True] < 0.9 * steps * all_layers
    computed.update({True: 0, False: 0})
    search(chains(320), SPACE, dataclasses.replace(config, negligible_weight=0.0))
    assert computed[True] == steps * all_layers


def test_the_search_stops_when_its_choice_is_stable_and_derives_the_last_choice():
    config = _config(search_epochs=30, tradeoff=100.0, stable_epochs=2, warmup_epochs=0)
    result = search(chains(32), SPACE, config)
    choices = [(e.metrics["candidate"], e.metrics["num_layers"]) for e in result.epochs]
    assert len(choices) < 30
    assert len(set(choices[-3:])) == 1
    assert len(set(choices[-4:-1])) > 1 or len(choices) == 3
    assert (result.candidate, result.num_layers) == choices[-1]
    assert result.architecture == SMALLEST


def test_epoch_reports_tell_loss_temperature_probabilities_and_survive_json():
    reports = []
    search(chains(64), SPACE, _config(controller_interval=1), on_epoch=reports.append)
    assert [(r.stage, r.epoch, r.num_epochs) for r in reports] == [
        ("warmup", 1, 1),
        ("search", 1, 3),
        ("search", 2, 3),
        ("search", 3, 3),
    ]
    last = reports[-1].metrics
    assert last["temperature"] == pytest.approx(0.1)
    assert last["candidate_0_probability"] + last["candidate_1_probability"] == pytest.approx(1)
    assert last["exit_1_probability"] + last["exit_2_probability"] == pytest.approx(1)
    assert 0 < last["resource"] <= 1
    assert reports[1].metrics["temperature"] > last["temperature"]
    assert json.loads(json.dumps(reports[-1].to_dict())) == reports[-1].to_dict()


def test_a_loss_that_is_not_finite_stops_the_search_with_the_place(monkeypatch):
    monkeypatch.setattr(Supernet, "loss", lambda *_: torch.tensor(torch.nan, requires_grad=True))
    message = r"the loss is nan in step 1 of warmup epoch 1; .* learning rate .* \(0.003\)"
    with pytest.raises(NonFiniteLossError, match=message):
        search(chains(32), SPACE, _config())


def test_scores_that_overflow_in_the_validation_of_a_search_are_told():
    message = r"scores are NaN or infinite after step 1 of search epoch 1; .*\(1e\+16\): lower it"
    change = {"warmup_epochs": 0, "stop_on": "ndcg", "learning_rate": 1e16, "controller_interval": 2}
    with pytest.raises(NonFiniteLossError, match=message):
        search(chains(32), SPACE, _config(**change))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"tradeoff": 1e39}, r"tradeoff=1e\+39, which is too high: lower it"),
        ({"accuracy_weight": 1e300}, r"accuracy_weight=1e\+300, which is too high: lower it"),
    ],
)
def test_a_controllers_loss_that_overflows_names_the_weight_that_makes_it_do_so(change, cause):
    with pytest.raises(
        NonFiniteLossError, match=rf"inf in step 2 of search epoch 1; the likely cause is {cause}"
    ):
        search(chains(64), SPACE, _config(**change))


def test_data_without_training_targets_and_impossible_bounds_are_refused():
    data = chains(8)
    starved = dataclasses.replace(data, train_ends=data.starts + 1)
    with pytest.raises(InputError, match="'chains' has no training target"):
        search(starved, SPACE, _config())
    with pytest.raises(InputError, match="max_flops=10 leaves no architecture"):
        search(data, SPACE, _config(max_flops=10), on_epoch=lambda _: pytest.fail("trained before checking"))
    bounded = search(data, SPACE, _config(max_flops=100_000, tradeoff=0.0, search_epochs=1))
    unbounded = search(data, SPACE, _config(tradeoff=0.0, search_epochs=1))
    assert bounded.architecture != unbounded.architecture


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search_epochs": 0}, "search_epochs must be at least 1, got 0"),
        ({"tradeoff": -1.0}, "tradeoff must be a finite number of at least 0, got -1.0"),
        ({"tradeoff": float("nan")}, "tradeoff must be .*, got nan"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"resource": "energy"}, "resource must be one of .*, got 'energy'"),
        ({"depth_cost": "soft"}, "depth_cost must be one of .*, got 'soft'"),
        ({"max_flops": 0}, "max_flops must be at least 1, got 0"),
        ({"depth_refresh": "step"}, "depth_refresh must be one of .*, got 'step'"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        _config(**change)


def test_prefix_training_of_bidirectional_attention_takes_one_step_of_each_stage():
    space = CandidateSpace(8, 8, 1, 1, (0,), (0,), attention="linear_bidirectional")
    result = search(chains(16), space, _config(search_epochs=1, temperature=_config().temperature))
    # 16 users with 9 training targets each, one prefix for each target.
    assert result.epochs[0].metrics["steps"] == 16 * 9 / 32 + 0.5


def _accuracy(model, data):
    item_ids, lengths = data.histories("test", np.arange(data.num_users), LENGTH)
    with torch.inference_mode():
        scores = model.eval().scores(torch.as_tensor(item_ids), torch.as_tensor(lengths))
    return (scores.argmax(1) == torch.as_tensor(data.target_items("test"))).float().mean().item()


def _trained_directly(architecture, data, seed, *, attend=True):
    torch.manual_seed(seed)
    model = SequentialRecommender(architecture, data.num_items, LENGTH, dropout=0.0)
    if not attend:
        for layer in model.layers:
            torch.nn.init.zeros_(layer.attention_output.weight)
            layer.attention_output.weight.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for epoch in range(30):
        batch: Batch
        for batch in training_batches(data, LENGTH, 32, form="windows", seed=seed, epoch=epoch):
            optimizer.zero_grad()
            model.loss(batch).backward()
            optimizer.step()
    return _accuracy(model, data)


@pytest.mark.slow
def test_direct_training_shows_which_networks_solve_the_chains():
    data = chains()
    for seed in range(2):
        assert _trained_directly(SMALLEST, data, seed) < 0.6
        assert _trained_directly(Architecture(2, 4, 2, 1), data, seed) < 0.6
        assert _trained_directly(NAMED, data, seed) > 0.95
        assert _trained_directly(Architecture(16, 32, 2, 1), data, seed) > 0.95
        assert _trained_directly(NAMED, data, seed, attend=False) < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_search_finds_the_network_that_solves_the_chains(seed):
    """A moderate trade-off finds the smallest that solves them, a huge one the smallest of all."""
    data = chains()
    config = _config(seed=seed, warmup_epochs=10, search_epochs=15, dropout=0.0)
    warm = warm_up(data, SPACE, config)
    found = {
        tradeoff: search(data, SPACE, dataclasses.replace(config, tradeoff=tradeoff), warm=warm).architecture
        for tradeoff in (0.0, 0.5, 100.0)
    }
    assert found[0.0].hidden_size == 16
    assert found[0.5] == NAMED
    assert found[100.0] == SMALLEST


def test_the_search_stops_on_ndcg_and_still_derives_the_choice_at_its_end():
    config = _config(stop_on="ndcg", ndcg_patience=2, search_epochs=30, tradeoff=1.0, learning_rate=1e-9)
    result = search(chains(64), SPACE, config)
    values = [epoch.metrics["hard_choice_ndcg_at_10"] for epoch in result.epochs]
    best = values.index(max(values))
    assert len(values) == best + 3 < 30
    last = result.epochs[-1].metrics
    assert result.architecture == SPACE.architecture(int(last["candidate"]), int(last["num_layers"]))


def test_ndcg_of_the_hard_choice_is_that_of_the_network_it_extracts():
    data = chains(64)
    result = search(data, SPACE, _config(stop_on="ndcg", search_epochs=2))
    network = result.supernet.extract(result.architecture).eval()
    found = evaluate(network.scores, data, "valid", max_length=LENGTH, protocols=("unseen",))
    assert result.epochs[-1].metrics["hard_choice_ndcg_at_10"] == pytest.approx(found["unseen/ndcg_at_10"])


def test_a_search_on_a_training_split_never_sees_validation_or_test_items():
    """Every user's last two items are markers; a search that saw one would give its row a gradient."""
    data = chains(64)
    items = data.items.copy()
    items[data.valid.positions] = 14
    items[data.test.positions] = 15
    marked = dataclasses.replace(data, items=items, num_items=15, checksum="marked")
    seen = search(marked, SPACE, _config(controller_data="train_split"))
    hidden = search(
        dataclasses.replace(marked, items=np.where(items > 13, 1, items)),
        SPACE,
        _config(controller_data="train_split"),
    )
    assert state_digest(seen.supernet) == state_digest(hidden.supernet)
    by_validation = search(marked, SPACE, _config())
    assert state_digest(by_validation.supernet) != state_digest(seen.supernet)


def test_a_search_by_latency_prefers_what_is_fast_though_it_does_more():
    """The table says that the larger candidate is the faster one."""
    config = _config(
        resource="latency", latencies_ms=(1.0, 9.0), tradeoff=50.0, accuracy_weight=0.0, search_epochs=4
    )
    result = search(chains(64), SPACE, config)
    assert result.candidate == 0
    by_flops = search(chains(64), SPACE, dataclasses.replace(config, resource="flops", latencies_ms=()))
    assert by_flops.candidate == 1


def test_latencies_are_measured_once_and_kept_on_resume(tmp_path, monkeypatch):
    tables = iter([(1.0, 2.0)])
    monkeypatch.setattr("easrec.nas.alternating.layer_latencies_ms", lambda *_, **__: next(tables))
    config = _config(resource="latency", search_epochs=2)

    def interrupt(report):
        if report.stage == "search":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(chains(64), SPACE, config, checkpoint_dir=tmp_path, on_epoch=interrupt)
    result = search(chains(64), SPACE, config, checkpoint_dir=tmp_path)
    given = search(chains(64), SPACE, dataclasses.replace(config, latencies_ms=(1.0, 2.0)))
    assert [e.metrics for e in result.epochs] == [e.metrics for e in given.epochs]


def test_latencies_that_fit_nothing_are_refused():
    with pytest.raises(InputError, match="latencies_ms belong to resource='latency'"):
        _config(latencies_ms=(1.0, 2.0))
    with pytest.raises(InputError, match=r"a positive number for each of the 2 candidates, got \[1\.0\]"):
        search(chains(32), SPACE, _config(resource="latency", latencies_ms=(1.0,)))


def test_a_sampled_search_resumes_exactly(tmp_path):
    config = _config(loss="sampled", num_negatives=6, micro_batch_size=20)
    whole = search(chains(64), SPACE, config)
    assert state_digest(search(chains(64), SPACE, _config()).supernet) != state_digest(whole.supernet)

    def interrupt(report):
        if (report.stage, report.epoch) == ("search", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(chains(64), SPACE, config, checkpoint_dir=tmp_path, on_epoch=interrupt)
    resumed = search(chains(64), SPACE, config, checkpoint_dir=tmp_path)
    assert state_digest(resumed.supernet) == state_digest(whole.supernet)


def test_temperatures_follow_the_schedule_in_controller_steps(monkeypatch):
    """64 users make 2 steps an epoch; every second one is the controllers' too, at the same temperature."""
    seen = []
    sample = Controllers.sample

    def record(controllers, temperature):
        seen.append(temperature)
        return sample(controllers, temperature)

    monkeypatch.setattr(Controllers, "sample", record)
    schedule = TemperatureSchedule(kind="linear", floor=0.1, fraction=1.0)
    search(chains(64), SPACE, _config(search_epochs=3, stable_epochs=3, temperature=schedule))
    expected = []
    for controller_step in range(3):  # weight step, weight step, controller step
        expected += [schedule.at(controller_step, planned_steps=3)] * 3
    assert seen == pytest.approx(expected)
    assert len(set(expected)) == 3


def test_the_hard_depth_is_read_anew_each_epoch(monkeypatch):
    depths = []

    def record(*args, **settings):
        depths.append(settings["hard_depth"])
        return controller_loss(*args, **settings)

    monkeypatch.setattr("easrec.nas.search.controller_loss", record)
    config = _config(accuracy_weight=0.0, tradeoff=5.0, controller_learning_rate=1.0, search_epochs=2)
    search(chains(128), SPACE, config)
    # Ties go to the larger network: two layers at first, then the resources have their way.
    assert depths == [2, 2, 1, 1]


def test_a_choice_that_never_changes_ends_the_search_after_the_epochs_that_show_it():
    config = _config(accuracy_weight=0.0, tradeoff=5.0, search_epochs=9, stable_epochs=3)
    result = search(chains(64), SPACE, config)
    assert {(e.metrics["candidate"], e.metrics["num_layers"]) for e in result.epochs} == {(1, 1)}
    assert len(result.epochs) == 3 + 1


def test_the_search_goes_on_with_the_warm_ups_moments_and_its_own_adam(tmp_path):
    data, config = chains(64), _config(warmup_epochs=2, search_epochs=1)
    warm = warm_up(data, SPACE, config)
    steps = [int(state["step"]) for state in warm.optimizer_state["optimizers"][0]["state"].values()]
    assert max(steps) == 4
    search(data, SPACE, config, warm=warm, checkpoint_dir=tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    steps = [int(moments["step"]) for moments in state["weights"]["optimizers"][0]["state"].values()]
    assert max(steps) == 4 + 2
    of_controllers = state["controller_optimizer"]["param_groups"][0]
    assert tuple(of_controllers["betas"]) == (0.5, 0.999)
    assert of_controllers["lr"] == config.controller_learning_rate


def test_all_candidates_and_exits_weigh_the_same_in_the_warm_up(monkeypatch):
    weights = []
    loss = Supernet.loss

    def record(supernet, batch, width, depth, negatives=None):
        weights.append((width.tolist(), depth.tolist()))
        return loss(supernet, batch, width, depth, negatives)

    monkeypatch.setattr(Supernet, "loss", record)
    warm_up(chains(64), SPACE, _config())
    assert weights == [([0.5, 0.5], [0.5, 0.5])] * 2


def test_a_sandwich_trains_the_largest_the_smallest_and_any_network_between(monkeypatch):
    space = CandidateSpace(16, 32, 3, 1, (0.5, 0, 0.75), (0.5, 0.25, 0.75))
    seen = []
    loss = Supernet.loss

    def record(supernet, batch, width, depth, negatives=None):
        seen.append((width.tolist(), depth.tolist()))
        return loss(supernet, batch, width, depth, negatives)

    monkeypatch.setattr(Supernet, "loss", record)
    warm_up(chains(64), space, _config(warmup_epochs=60, warmup_paths="sandwich"))
    assert all(sorted(weights) == [0, 0, 1] for pair in seen for weights in pair)
    chosen = [(width.index(1), depth.index(1) + 1) for width, depth in seen]
    assert set(chosen[0::3]) == {(1, 3)}
    assert set(chosen[1::3]) == {(2, 1)}
    drawn = chosen[2::3]
    assert len(drawn) == 2 * 60  # a draw for each step
    counts = [drawn.count((k, layers)) for k in range(3) for layers in (1, 2, 3)]
    # 120 draws from 9: that one of them comes less than 3 times has a probability below 0.001.
    assert min(counts) >= 3


def test_a_step_of_a_sandwich_has_the_mean_gradient_of_its_networks_by_themselves():
    space = CandidateSpace(8, 16, 2, 2, (0, 0.5), (0, 0.5), weights="shared")
    data = chains(64)
    supernet = randomise(Supernet(space, data.num_items, LENGTH, dropout=0.0)).double()
    batch = next(iter(training_batches(data, LENGTH, 32, form="windows", seed=0, epoch=1)))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        drawn = paths(space, "sandwich")
    _mean_loss(supernet, drawn, batch, None).backward()
    expected = torch.zeros_like(supernet.item_embedding.weight)
    for width, depth in drawn:
        candidate, layers = int(width.argmax()), int(depth.argmax()) + 1
        alone = supernet.extract(space.architecture(candidate, layers)).double()
        alone.loss(batch).backward()
        size = alone.architecture.hidden_size
        expected[:, :size] += alone.item_embedding.weight.grad / 3
    found = supernet.item_embedding.weight.grad
    # The extracted networks hold the weights in single precision.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_all_parts_of_a_batch_train_the_networks_drawn_for_its_step():
    """Micro-batches change no gradient, so not what is drawn either: their sum is the whole batch's."""
    data = chains(64)
    whole, parts = (
        warm_up(data, SPACE, _config(warmup_paths="sandwich", dropout=0.0, micro_batch_size=size)).supernet
        for size in (None, 8)
    )
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_each_epoch_has_its_own_order_of_training_and_validation_targets(monkeypatch):
    """Warm-up and search epochs differ in their training batches, search epochs in those of validation."""
    trained, validated = [[]], [[]]
    loss, controllers_turn = Supernet.loss, search_module.controller_loss

    def record_training(supernet, batch, *arguments, **options):
        if supernet.training:
            trained[-1].append(batch.item_ids.tolist())
        return loss(supernet, batch, *arguments, **options)

    def record_validation(supernet, batch, *arguments, **options):
        validated[-1].append(batch.item_ids.tolist())
        return controllers_turn(supernet, batch, *arguments, **options)

    def next_epoch(report):
        trained.append([])
        if report.stage == "search":
            validated.append([])

    monkeypatch.setattr(Supernet, "loss", record_training)
    monkeypatch.setattr(search_module, "controller_loss", record_validation)
    config = _config(warmup_epochs=2, search_epochs=2, batch_size=16, controller_interval=1)
    search(chains(64), SPACE, config, on_epoch=next_epoch)
    *trained, last = trained
    *validated, rest = validated
    assert last == rest == []
    assert [len(batches) for batches in trained] == [4] * 4
    assert [len(batches) for batches in validated] == [4] * 2
    assert all(one != other for one, other in itertools.combinations(trained, 2))
    assert validated[0] != validated[1]
