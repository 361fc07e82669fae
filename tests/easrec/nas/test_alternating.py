"""What all searches that EASRec is compared with have in common."""

import dataclasses

import pytest
import torch

from easrec.errors import InputError
from easrec.models.architecture import CandidateSpace
from easrec.models.transformer import SequentialRecommender
from easrec.nas.darts import darts_search, darts_settings
from easrec.nas.proxylessnas import proxylessnas_search, proxylessnas_settings
from easrec.nas.recnas import recnas_search, recnas_settings
from easrec.nas.search import SearchConfig, warm_up
from easrec.nas.supernet import Supernet
from easrec.retrain import RetrainConfig, retrain
from easrec.training import NonFiniteLossError, state_digest
from tests.easrec.chains import LENGTH, chains

SPACE = CandidateSpace(16, 32, 2, 1, (0, 0.875), (0, 0.875), attention="softmax", gate_layers=0)
SEARCHES = {
    "darts": (darts_search, darts_settings),
    "proxylessnas": (proxylessnas_search, proxylessnas_settings),
    "recnas": (recnas_search, recnas_settings),
}


@pytest.fixture(params=SEARCHES)
def method(request):
    return SEARCHES[request.param]


def _config(settings, **changes):
    config = settings(
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
    search, settings = method
    data = chains(64)
    first = search(data, SPACE, _config(settings))
    torch.rand(7)  # the caller's random state has no part
    again = search(data, SPACE, _config(settings))
    other = search(data, SPACE, _config(settings, seed=1))
    assert state_digest(again.supernet) == state_digest(first.supernet)
    assert [e.metrics for e in again.epochs] == [e.metrics for e in first.epochs]
    assert state_digest(other.supernet) != state_digest(first.supernet)


class _Interrupted(Exception):
    pass


@pytest.mark.parametrize(("stage", "epoch"), [("warmup", 1), ("search", 1), ("search", 2)])
def test_an_interrupted_search_resumes_exactly(method, tmp_path, stage, epoch):
    search, settings = method
    data, config = chains(64), _config(settings, warmup_epochs=1, controller_interval=1)
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
    assert seen == [("warmup", 1), ("search", 1), ("search", 2), ("search", 3)]
    assert state_digest(resumed.supernet) == state_digest(whole.supernet)
    assert [e.metrics for e in resumed.epochs] == [e.metrics for e in whole.epochs]
    assert (resumed.candidate, resumed.num_layers) == (whole.candidate, whole.num_layers)


def test_a_checkpoint_of_other_settings_is_refused(method, tmp_path):
    search, settings = method
    data, config = chains(32), _config(settings, search_epochs=1)
    search(data, SPACE, config, checkpoint_dir=tmp_path)
    with pytest.raises(InputError, match="belongs to a run with other settings or other data"):
        search(data, SPACE, dataclasses.replace(config, seed=0, dropout=0.1), checkpoint_dir=tmp_path)


def test_a_warm_up_is_shared_and_left_as_it_is(method):
    search, settings = method
    data, config = chains(64), _config(settings, warmup_epochs=1, search_epochs=1)
    warm = warm_up(data, SPACE, config)
    before = state_digest(warm.supernet)
    shared, alone = search(data, SPACE, config, warm=warm), search(data, SPACE, config)
    assert state_digest(shared.supernet) == state_digest(alone.supernet)
    assert state_digest(warm.supernet) == before == state_digest(shared.warm_supernet)
    with pytest.raises(InputError, match="the warm-up was made with other data"):
        search(data, SPACE, dataclasses.replace(config, seed=1), warm=warm)


def test_no_test_item_reaches_a_search_and_the_architecture_learns_from_validation_items(method):
    search, settings = method
    data, config = chains(64), _config(settings, controller_interval=1)
    expected = search(data, SPACE, config).supernet
    found = {}
    for split in ("valid", "test"):
        marked, places = data.items.copy(), data.targets(split).positions
        marked[places] = 1 + marked[places] % 13
        found[split] = search(dataclasses.replace(data, items=marked), SPACE, config).supernet
    assert state_digest(found["test"]) == state_digest(expected)
    assert not torch.equal(found["valid"].controllers.alpha, expected.controllers.alpha)


def test_micro_batches_give_the_same_search_to_rounding(method):
    search, settings = method
    data = chains(64)
    config = _config(settings, search_epochs=1, dropout=0.0)
    whole, parts = (
        search(data, SPACE, dataclasses.replace(config, micro_batch_size=size)) for size in (None, 5)
    )
    assert parts.micro_batch_size == 5
    for name, value in whole.supernet.controllers.named_parameters():
        other = dict(parts.supernet.controllers.named_parameters())[name]
        torch.testing.assert_close(other, value, rtol=1e-3, atol=1e-5)


def test_what_is_found_is_retrained_from_fresh_weights_as_any_network(method, tmp_path):
    search, settings = method
    data = chains(64)
    found = search(data, SPACE, _config(settings, search_epochs=1))
    retrained = retrain(
        found.architecture, data, RetrainConfig(max_length=LENGTH, max_epochs=1, batch_size=32)
    )
    assert isinstance(retrained.model, SequentialRecommender)
    assert retrained.model.architecture == found.architecture


def test_a_search_can_end_by_the_ndcg_of_its_choice(method):
    search, settings = method
    config = _config(settings, search_epochs=6, stop_on="ndcg", ndcg_patience=1)
    result = search(chains(64), SPACE, config)
    values = [report.metrics["hard_choice_ndcg_at_10"] for report in result.epochs]
    assert all(0 <= value <= 1 for value in values)
    assert len(values) == 6 or values[-1] <= max(values[:-1])


def test_a_loss_that_is_not_finite_stops_a_search(method, monkeypatch):
    search, settings = method
    loss = Supernet.loss
    monkeypatch.setattr(Supernet, "loss", lambda self, *a, **o: loss(self, *a, **o) * torch.nan)
    with pytest.raises(NonFiniteLossError, match="the loss is nan in step 1 of search epoch 1"):
        search(chains(32), SPACE, _config(settings))
