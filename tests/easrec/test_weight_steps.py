import pytest
import torch

from easrec.data.batches import training_batches
from easrec.errors import InputError
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.transformer import SequentialRecommender
from easrec.nas.supernet import Supernet
from easrec.training import NonFiniteLossError
from easrec.weight_steps import WeightSteps, check_loss_settings
from tests.easrec.chains import LENGTH, chains
from tests.randomise import randomise

WHERE = {"stage": "retrain", "epoch": 1, "step": 1}


def _batch(size=12):
    return next(training_batches(chains(32), LENGTH, size, form="windows", seed=0, epoch=1))


def _network(num_items=13):
    return randomise(SequentialRecommender(Architecture(16, 32, 1, 1), num_items, LENGTH, dropout=0.0))


def _gradients(module, loss_of, **settings):
    """Gradients of one step, caught before the optimiser moves anything."""
    steps = WeightSteps(module.parameters(), module.item_embedding, learning_rate=1e-30, **settings)
    torch.manual_seed(0)
    value = steps.step(_batch(), loss_of, **WHERE)
    return value, {name: p.grad.to_dense() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss", ["full", "sampled"])
@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_micro_batches_have_the_gradients_of_the_whole_batch(size, loss):
    whole = _network()
    parts = _network()
    parts.load_state_dict(whole.state_dict())
    expected_value, expected = _gradients(whole, whole.loss, loss=loss, num_negatives=6)
    value, found = _gradients(parts, parts.loss, loss=loss, num_negatives=6, micro_batch_size=size)
    assert value == pytest.approx(expected_value, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_micro_batches_of_a_supernet_have_the_gradients_of_the_whole_batch():
    space = CandidateSpace(16, 32, 2, 1, (0, 0.5), (0, 0.5))
    whole = randomise(Supernet(space, 13, LENGTH, dropout=0.0))
    parts = Supernet(space, 13, LENGTH, dropout=0.0)
    parts.load_state_dict(whole.state_dict())
    width, depth = torch.tensor([0.3, 0.7]), torch.tensor([0.6, 0.4])
    _, expected = _gradients(whole, lambda part, negatives: whole.loss(part, width, depth, negatives))
    _, found = _gradients(
        parts, lambda part, negatives: parts.loss(part, width, depth, negatives), micro_batch_size=5
    )
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_sampled_steps_touch_the_rows_of_their_items_alone():
    module = _network(num_items=500)
    steps = WeightSteps(
        module.parameters(), module.item_embedding, learning_rate=0.1, loss="sampled", num_negatives=3
    )
    before = module.item_embedding.weight.detach().clone()
    batch = _batch()
    torch.manual_seed(7)
    steps.step(batch, module.loss, **WHERE)
    torch.manual_seed(7)
    negatives = torch.randperm(500)[:3] + 1
    used = set(batch.item_ids.unique().tolist()) | set(negatives.tolist()) - {0}
    used |= set(batch.targets.unique().tolist())
    moved = (module.item_embedding.weight.detach() != before).any(dim=1).nonzero().squeeze(1).tolist()
    assert set(moved) == used - {0}
    moments = steps.state_dict()["optimizers"][1]["state"][0]["exp_avg"]
    assert set(moments.any(dim=1).nonzero().squeeze(1).tolist()) == used - {0}


def test_full_steps_move_every_item():
    module = _network(num_items=500)
    steps = WeightSteps(module.parameters(), module.item_embedding, learning_rate=0.1)
    before = module.item_embedding.weight.detach().clone()
    steps.step(_batch(), module.loss, **WHERE)
    moved = (module.item_embedding.weight.detach() != before).any(dim=1)
    assert moved[1:].all()
    assert not moved[0]


def test_a_loss_that_is_not_finite_moves_nothing():
    module = _network()
    steps = WeightSteps(module.parameters(), module.item_embedding, learning_rate=0.1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match="step 1 of retrain epoch 1"):
        steps.step(_batch(), lambda part, negatives: module.loss(part) * torch.nan, **WHERE)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="loss must be 'full' or 'sampled', got 'bpr'"):
        check_loss_settings("bpr", 1, None)
    with pytest.raises(InputError, match="num_negatives must be at least 1, got 0"):
        check_loss_settings("sampled", 0, None)
    with pytest.raises(InputError, match="micro_batch_size must be at least 1, got 0"):
        check_loss_settings("full", 1, 0)
