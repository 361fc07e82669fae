import math

import pytest
import torch
import torch.nn.functional as F

from easrec.models import prediction
from easrec.models.prediction import next_item_loss, sampled_item_loss


def _task(num_items, *, rows=6, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(num_items + 1, size, generator=generator, dtype=torch.float64) * 0.5
    hidden = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    targets = torch.randint(1, num_items + 1, (rows,), generator=generator)
    return hidden.requires_grad_(), targets, weight.requires_grad_()


def _draw(num_items, count, generator):
    return torch.randperm(num_items, generator=generator)[:count] + 1


@pytest.mark.parametrize("num_items", [5, 40, 300])
def test_all_items_drawn_once_give_the_exact_loss_and_gradients(num_items):
    hidden, targets, weight = _task(num_items)
    targets[2] = 0  # asks nothing
    everything = _draw(num_items, num_items, torch.Generator().manual_seed(1))
    exact = next_item_loss(hidden, targets, weight)
    sampled = sampled_item_loss(hidden, targets, everything, weight)
    torch.testing.assert_close(sampled, exact, rtol=1e-12, atol=1e-12)
    for found, expected in zip(
        torch.autograd.grad(sampled, (hidden, weight)),
        torch.autograd.grad(exact, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_loss_is_the_estimate_written_out(monkeypatch):
    """log(e^t + sum over drawn j != t of e^(s_j) V / S) - t, whatever the chunks."""
    hidden, targets, weight = _task(30, rows=50)
    negatives = _draw(30, 7, torch.Generator().manual_seed(2))
    expected = []
    for row, target in zip(hidden, targets.tolist(), strict=True):
        own = row @ weight[target]
        others = sum((row @ weight[j]).exp() * 30 / 7 for j in negatives.tolist() if j != target)
        expected.append((own.exp() + others).log() - own)
    whole = sampled_item_loss(hidden, targets, negatives, weight)
    torch.testing.assert_close(whole, torch.stack(expected).mean(), rtol=1e-10, atol=1e-12)
    monkeypatch.setattr(prediction, "CHUNK_ELEMENTS", 1)
    chunked = sampled_item_loss(hidden, targets, negatives, weight)
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)
    for found, same in zip(
        torch.autograd.grad(chunked, (hidden, weight)),
        torch.autograd.grad(whole, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(found, same, rtol=1e-10, atol=1e-12)


def test_the_partition_sum_is_unbiased_and_the_bias_of_the_loss_falls_as_one_over_the_samples():
    num_items, draws = 400, 3000
    hidden, targets, weight = (x.detach() for x in _task(num_items, rows=40, seed=3))
    scores = hidden @ weight[1:].T
    own = scores.gather(1, targets[:, None] - 1)
    exact = F.cross_entropy(scores, targets - 1)
    generator = torch.Generator().manual_seed(4)
    biases = {}
    for count in (10, 20, 40):
        losses, sums = [], []
        for _ in range(draws):
            negatives = _draw(num_items, count, generator)
            loss = sampled_item_loss(hidden, targets, negatives, weight)
            losses.append(loss.item())
            drawn = scores[:, negatives - 1].exp().masked_fill(negatives == targets[:, None], 0.0)
            sums.append(own.exp().squeeze(1) + drawn.sum(dim=1) * num_items / count)
        mean_sum = torch.stack(sums).mean(dim=0)
        torch.testing.assert_close(mean_sum, scores.exp().sum(dim=1), rtol=0.05, atol=0)
        biases[count] = exact.item() - sum(losses) / draws
    # The logarithm is concave, so the estimate lies below; its bias halves as the samples double.
    assert biases[10] > biases[20] > biases[40] > 0
    assert biases[10] / biases[20] == pytest.approx(2, rel=0.25)
    assert biases[20] / biases[40] == pytest.approx(2, rel=0.25)


def test_a_row_whose_only_negative_is_its_target_costs_nothing():
    hidden, _, weight = _task(5, rows=1)
    targets = torch.tensor([3])
    loss = sampled_item_loss(hidden, targets, torch.tensor([3]), weight)
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert torch.isfinite(torch.autograd.grad(loss, hidden)[0]).all()


def test_sparse_gradients_hold_the_rows_that_were_used():
    hidden, targets, weight = _task(1000)
    negatives = _draw(1000, 5, torch.Generator().manual_seed(5))
    dense = torch.autograd.grad(sampled_item_loss(hidden, targets, negatives, weight), weight)[0]
    sparse = torch.autograd.grad(sampled_item_loss(hidden, targets, negatives, weight, sparse=True), weight)[
        0
    ].coalesce()
    assert set(sparse.indices()[0].tolist()) == set(targets.tolist()) | set(negatives.tolist())
    torch.testing.assert_close(sparse.to_dense(), dense)


def test_no_targets_give_nan_as_any_empty_mean():
    hidden, _, weight = _task(5, rows=2)
    loss = sampled_item_loss(hidden, torch.zeros(2, dtype=torch.int64), torch.tensor([1]), weight)
    assert math.isnan(loss.item())
