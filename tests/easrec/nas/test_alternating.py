"""What all searches that EASRec is compared with have in common."""

import dataclasses

import pytest
import torch

from easrec.errors import InputError
from easrec.models.architecture import CandidateSpace
from easrec.models.transformer import SequentialRecommender
from easrec.nas import alternating
from easrec.nas.alternating import alternate
from easrec.nas.course import hard_choice_ndcg
from easrec.nas.darts import Darts
from easrec.nas.proxylessnas import ProxylessNas
from easrec.nas.recnas import RecNas
from easrec.nas.search import SearchConfig, warm_up
from easrec.nas.supernet import Supernet
from easrec.retrain import RetrainConfig, retrain
from easrec.training import NonFiniteLossError, state_digest
from tests.easrec.chains import LENGTH, chains

SPACE = CandidateSpace(16, 32, 2, 1, (0, 0.875), (0, 0.875), attention="softmax", gate_layers=0)
METHODS = [Darts(), ProxylessNas(), RecNas()]


@pytest.fixture(params=METHODS, ids=lambda method: method.title)
def method(request):
    return request.param


def _config(method, **changes):
    config = method.settings(
        SearchConfig(
            max_length=LENGTH,
            search_epochs=3,
            batch_size=32,
            learning_rate=3e-3,
            controller_learning_rate=0.02,
            stable_epochs=5,
        )
    )
    return dataclasses.replace(config, **changes)


def test_a_search_repeats_exactly_and_depends_on_its_seed(method):
    data = chains(64)
    first = alternate(method, data, SPACE, _config(method))
    torch.rand(7)  # the caller's random state has no part
    again = alternate(method, data, SPACE, _config(method))
    other = alternate(method, data, SPACE, _config(method, seed=1))
    assert state_digest(again.supernet) == state_digest(first.supernet)
    assert [e.metrics for e in again.epochs] == [e.metrics for e in first.epochs]
    assert state_digest(other.supernet) != state_digest(first.supernet)


class _Interrupted(Exception):
    pass


@pytest.mark.parametrize(("stage", "epoch"), [("warmup", 1), ("search", 1), ("search", 2)])
def test_an_interrupted_search_resumes_exactly(method, tmp_path, stage, epoch):
    data, config = chains(64), _config(method, warmup_epochs=1, controller_interval=1)
    whole = alternate(method, data, SPACE, config)
    seen = []

    def interrupt(report):
        seen.append((report.stage, report.epoch))
        if seen[-1] == (stage, epoch):
            raise _Interrupted

    with pytest.raises(_Interrupted):
        alternate(method, data, SPACE, config, checkpoint_dir=tmp_path, on_epoch=interrupt)
    resumed = alternate(
        method,
        data,
        SPACE,
        config,
        checkpoint_dir=tmp_path,
        on_epoch=lambda r: seen.append((r.stage, r.epoch)),
    )
    assert seen == [("warmup", 1), ("search", 1), ("search", 2), ("search", 3)]
    assert state_digest(resumed.supernet) == state_digest(whole.supernet)
    assert [e.metrics for e in resumed.epochs] == [e.metrics for e in whole.epochs]
    assert (resumed.candidate, resumed.num_layers) == (whole.candidate, whole.num_layers)


def test_a_checkpoint_of_other_settings_is_refused(method, tmp_path):
    data, config = chains(32), _config(method, search_epochs=1)
    alternate(method, data, SPACE, config, checkpoint_dir=tmp_path)
    with pytest.raises(InputError, match="belongs to a run with other settings or other data"):
        alternate(
            method, data, SPACE, dataclasses.replace(config, seed=0, dropout=0.1), checkpoint_dir=tmp_path
        )


def test_a_warm_up_is_shared_and_left_as_it_is(method):
    data, config = chains(64), _config(method, warmup_epochs=1, search_epochs=1)
    warm = warm_up(data, SPACE, config)
    before = state_digest(warm.supernet)
    shared, alone = alternate(method, data, SPACE, config, warm=warm), alternate(method, data, SPACE, config)
    assert state_digest(shared.supernet) == state_digest(alone.supernet)
    assert state_digest(warm.supernet) == before == state_digest(shared.warm_supernet)
    with pytest.raises(InputError, match="the warm-up was made with other data"):
        alternate(method, data, SPACE, dataclasses.replace(config, seed=1), warm=warm)


def test_no_test_item_reaches_a_search_and_the_architecture_learns_from_validation_items(method):
    data, config = chains(64), _config(method, controller_interval=1)
    expected = alternate(method, data, SPACE, config).supernet
    found = {}
    for split in ("valid", "test"):
        marked, places = data.items.copy(), data.targets(split).positions
        marked[places] = 1 + marked[places] % 13
        found[split] = alternate(method, dataclasses.replace(data, items=marked), SPACE, config).supernet
    assert state_digest(found["test"]) == state_digest(expected)
    assert not torch.equal(found["valid"].controllers.alpha, expected.controllers.alpha)


def test_micro_batches_give_the_same_search_to_rounding(method):
    data = chains(64)
    config = _config(method, search_epochs=1, dropout=0.0)
    whole, parts = (
        alternate(method, data, SPACE, dataclasses.replace(config, micro_batch_size=size))
        for size in (None, 5)
    )
    assert parts.micro_batch_size == 5
    for name, value in whole.supernet.controllers.named_parameters():
        other = dict(parts.supernet.controllers.named_parameters())[name]
        torch.testing.assert_close(other, value, rtol=1e-3, atol=1e-5)


def test_what_is_found_is_retrained_from_fresh_weights_as_any_network(method, tmp_path):
    data = chains(64)
    found = alternate(method, data, SPACE, _config(method, search_epochs=1))
    retrained = retrain(
        found.architecture, data, RetrainConfig(max_length=LENGTH, max_epochs=1, batch_size=32)
    )
    assert isinstance(retrained.model, SequentialRecommender)
    assert retrained.model.architecture == found.architecture


@pytest.mark.parametrize(("figures", "epochs"), [((0.2, 0.3, 0.3, 0.4), 3), ((0.1, 0.2, 0.3, 0.4), 4)])
def test_a_search_ends_when_the_ndcg_of_its_choice_rises_no_more(method, figures, epochs, monkeypatch):
    config = _config(method, search_epochs=4, stop_on="ndcg", ndcg_patience=1)
    coming = iter(figures)
    monkeypatch.setattr(alternating, "hard_choice_ndcg", lambda *_: next(coming))
    result = alternate(method, chains(64), SPACE, config)
    assert [report.metrics["hard_choice_ndcg_at_10"] for report in result.epochs] == list(figures[:epochs])


def test_the_ndcg_of_a_choice_is_that_of_its_network(method):
    config = _config(method, search_epochs=2, stop_on="ndcg", ndcg_patience=2)
    result = alternate(method, data := chains(64), SPACE, config)
    last = result.epochs[-1].metrics["hard_choice_ndcg_at_10"]
    assert 0 < last <= 1
    assert last == hard_choice_ndcg(result.supernet, result.architecture, data, config, "cpu")


def test_a_loss_that_is_not_finite_stops_a_search(method, monkeypatch):
    loss = Supernet.loss
    monkeypatch.setattr(Supernet, "loss", lambda self, *a, **o: loss(self, *a, **o) * torch.nan)
    with pytest.raises(NonFiniteLossError, match="the loss is nan in step 1 of search epoch 1"):
        alternate(method, chains(32), SPACE, _config(method))
