import dataclasses

import numpy as np
import pytest
import torch

from easrec.errors import InputError
from easrec.evaluation.protocols import evaluate
from easrec.models.architecture import Architecture
from easrec.models.transformer import SequentialRecommender
from easrec.retrain import RetrainConfig, retrain
from easrec.training import NonFiniteLossError, state_digest
from tests.easrec.chains import LENGTH, chains
from tests.randomise import randomise

NETWORK = Architecture(16, 32, 1, 1)


def _config(**changes):
    settings = {"max_length": LENGTH, "max_epochs": 3, "batch_size": 32, "learning_rate": 3e-3}
    return RetrainConfig(**(settings | changes))


def test_retraining_solves_the_chains_and_keeps_the_best_epoch():
    data = chains()
    # Said to repeat items, they are judged among all thirteen and not among the three unseen.
    data = dataclasses.replace(data, statistics=data.statistics | {"repeat_share": 1.0})
    result = retrain(NETWORK, data, _config(max_epochs=40, patience=15, dropout=0.0))
    criterion = [epoch.metrics["valid/full/ndcg_at_10"] for epoch in result.epochs]
    assert result.best_epoch == 1 + int(np.argmax(criterion))
    assert not result.model.training
    again = evaluate(result.model.scores, data, "valid", max_length=LENGTH, cutoffs=(1, 10))
    assert again["full/ndcg_at_10"] == pytest.approx(max(criterion))
    assert again["full/recall_at_1"] > 0.9


def test_retraining_on_a_sampled_loss_solves_the_chains_too():
    data = chains()
    data = dataclasses.replace(data, statistics=data.statistics | {"repeat_share": 1.0})
    config = _config(max_epochs=60, patience=20, dropout=0.0, loss="sampled", num_negatives=6)
    result = retrain(NETWORK, data, config)
    found = evaluate(result.model.scores, data, "valid", max_length=LENGTH, cutoffs=(1,))
    assert found["full/recall_at_1"] > 0.9


def test_training_stops_after_patience_epochs_without_a_better_one():
    result = retrain(NETWORK, chains(64), _config(max_epochs=100, patience=2, learning_rate=1e-9))
    assert result.stopped_early
    assert len(result.epochs) == result.best_epoch + 2


def test_initial_weights_are_transferred_and_left_as_they_are():
    data = chains(64)
    initial = randomise(SequentialRecommender(NETWORK, data.num_items, LENGTH))
    before = state_digest(initial)
    frozen = _config(max_epochs=1, learning_rate=1e-12)
    transferred = retrain(NETWORK, data, frozen, initial=initial).model
    assert state_digest(initial) == before
    for name, value in transferred.state_dict().items():
        torch.testing.assert_close(value, initial.state_dict()[name], rtol=0, atol=1e-9)
    fresh = retrain(NETWORK, data, frozen).model
    assert not torch.allclose(fresh.item_embedding.weight, transferred.item_embedding.weight)
    with pytest.raises(InputError, match="the initial network must have the architecture"):
        retrain(Architecture(16, 32, 2, 1), data, frozen, initial=initial)


class _Interrupted(Exception):
    pass


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_an_interrupted_retraining_resumes_exactly(tmp_path, epoch):
    data, config = chains(64), _config(max_epochs=4)
    whole = retrain(NETWORK, data, config)
    seen = []

    def interrupt(report):
        seen.append(report.epoch)
        if report.epoch == epoch:
            raise _Interrupted

    with pytest.raises(_Interrupted):
        retrain(NETWORK, data, config, checkpoint_dir=tmp_path, on_epoch=interrupt)
    torch.rand(3)
    resumed = retrain(
        NETWORK, data, config, checkpoint_dir=tmp_path, on_epoch=lambda report: seen.append(report.epoch)
    )
    assert seen == [1, 2, 3, 4]
    assert state_digest(resumed.model) == state_digest(whole.model)
    assert [e.metrics for e in resumed.epochs] == [e.metrics for e in whole.epochs]
    assert resumed.best_epoch == whole.best_epoch


def test_a_retraining_that_ran_out_of_memory_resumes_in_the_micro_batches_that_fitted(tmp_path, monkeypatch):
    data, config = chains(64), _config(max_epochs=3, dropout=0.0)
    loss, sizes = SequentialRecommender.loss, []

    def short(self, batch, negatives=None):
        sizes.append(len(batch.item_ids))
        if len(batch.item_ids) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(self, batch, negatives)

    def interrupt(report):
        raise _Interrupted

    plenty = retrain(NETWORK, data, config)
    assert plenty.micro_batch_size is None
    with monkeypatch.context() as patches, pytest.raises(_Interrupted):
        patches.setattr(SequentialRecommender, "loss", short)
        retrain(NETWORK, data, config, checkpoint_dir=tmp_path, on_epoch=interrupt)
    assert sizes[:4] == [32, 16, 8, 8] and max(sizes[3:]) == 8
    resumed = retrain(NETWORK, data, config, checkpoint_dir=tmp_path)
    assert resumed.micro_batch_size == 8
    for found, expected in zip(resumed.epochs, plenty.epochs, strict=True):
        assert found.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-4)


def test_weights_that_the_last_step_spoils_are_refused_before_they_are_kept(tmp_path, monkeypatch):
    """A loss is that of the weights before its step: the last one of an epoch does not tell."""
    step = torch.optim.Adam.step

    def spoil(self, *arguments):
        step(self, *arguments)
        steps.append(1)
        if len(steps) == 2:
            with torch.no_grad():
                self.param_groups[0]["params"][-1].fill_(torch.inf)

    steps = []
    monkeypatch.setattr(torch.optim.Adam, "step", spoil)
    message = r"weights are NaN or infinite after step 2 of retrain epoch 1; .*\(0\.003\): lower it"
    with pytest.raises(NonFiniteLossError, match=message):
        retrain(NETWORK, chains(64), _config(), checkpoint_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_finite_weights_whose_scores_overflow_in_the_validation_are_told(tmp_path):
    message = r"scores are NaN or infinite after step 1 of retrain epoch 1; .*\(1e\+30\): lower it"
    with pytest.raises(NonFiniteLossError, match=message):
        retrain(NETWORK, chains(32), _config(learning_rate=1e30), checkpoint_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_other_initial_weights_is_refused(tmp_path):
    data, config = chains(32), _config(max_epochs=1)
    retrain(NETWORK, data, config, checkpoint_dir=tmp_path)
    initial = randomise(SequentialRecommender(NETWORK, data.num_items, LENGTH))
    with pytest.raises(InputError, match="belongs to a run with other settings or other data"):
        retrain(NETWORK, data, config, initial=initial, checkpoint_dir=tmp_path)


def test_no_test_item_reaches_retraining():
    data = chains(64)
    marked = data.items.copy()
    marked[data.test.positions] = 1 + marked[data.test.positions] % 13
    planted = dataclasses.replace(data, items=marked)
    found, expected = (retrain(NETWORK, d, _config()) for d in (planted, data))
    assert state_digest(found.model) == state_digest(expected.model)
    assert [e.metrics for e in found.epochs] == [e.metrics for e in expected.epochs]


def test_a_loss_that_is_not_finite_stops_retraining(monkeypatch):
    losses = iter([1.0, float("inf")])
    monkeypatch.setattr(
        SequentialRecommender, "loss", lambda self, *_: next(losses) + 0 * self.item_embedding.weight.sum()
    )
    with pytest.raises(NonFiniteLossError, match="the loss is inf in step 2 of retrain epoch 1"):
        retrain(NETWORK, chains(), _config())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive, got inf"),
        ({"dropout": -0.1}, "dropout must lie in"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        _config(**change)
