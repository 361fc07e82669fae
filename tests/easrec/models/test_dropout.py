import pytest
import torch

from easrec.models.dropout import dropout


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_the_share_is_dropped_and_the_mean_stays(share):
    torch.manual_seed(0)
    x = torch.ones(1001, 501)
    out = dropout(x, share, training=True)
    count = x.numel()
    assert abs((out == 0).float().mean().item() - share) < 5 * (share * (1 - share) / count) ** 0.5
    kept = out[out != 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / (1 - share)), rtol=1e-3)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400_000), 0.5, training=True) != 0).double() - 0.5
    for lag in (1, 2, 3, 4, 8):
        correlation = (kept[lag:] * kept[:-lag]).mean().item() / 0.25
        assert abs(correlation) < 5 / 400_000**0.5


def test_gradients_pass_where_values_do_and_seeds_repeat():
    x = torch.randn(37, requires_grad=True)
    torch.manual_seed(1)
    out = dropout(x, 0.3, training=True)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, 0.3, training=True), out)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)


def test_nothing_is_dropped_in_evaluation_or_at_share_zero():
    x = torch.randn(5)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
