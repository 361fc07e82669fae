import pytest
import torch

from easrec.models.attention import linear_attention, softmax_attention
from tests.reference import attention as reference


def _inputs(positions, *, seed=0, batch=2, heads=2, size=4):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(
            batch, heads, positions, size, generator=generator, dtype=torch.float64, requires_grad=True
        )
        for _ in range(3)
    ]


def _left_aligned(lengths, positions):
    return torch.arange(positions) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("key_norm", ["column", "row"])
@pytest.mark.parametrize(
    ("positions", "chunk_size", "size"), [(1, 64, 4), (7, 3, 4), (7, 3, 16), (64, 64, 4), (200, 64, 3)]
)
def test_linear_attention_equals_the_plain_loop(positions, chunk_size, size, key_norm, causal):
    if positions == 200:  # the loop takes seconds there; one head and sequence show as much
        q, k, v = _inputs(positions, batch=1, heads=1, size=size)
        mask = _left_aligned([150], positions)
    else:
        q, k, v = _inputs(positions, size=size)
        mask = _left_aligned([positions, (positions + 1) // 2], positions)
    out = linear_attention(q, k, v, mask=mask, key_norm=key_norm, causal=causal, chunk_size=chunk_size)
    expected = reference.linear_attention(q, k, v, mask, key_norm=key_norm, causal=causal)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-11)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    gradients = torch.autograd.grad((out * direction).sum(), (q, k, v))
    expected_gradients = torch.autograd.grad((expected * direction).sum(), (q, k, v))
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("key_norm", ["column", "row"])
def test_linear_attention_in_float32_stays_close_to_float64(key_norm):
    q, k, v = _inputs(130, size=16)
    exact = linear_attention(q, k, v, key_norm=key_norm)
    single = linear_attention(q.float(), k.float(), v.float(), key_norm=key_norm)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("key_norm", ["column", "row"])
def test_masked_positions_in_the_middle_and_nan_in_them_change_nothing(key_norm, causal):
    q, k, v = _inputs(9)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, [0, 4, 8]] = False
    mask[1] = False  # a row of padding alone
    poisoned = [x.detach().clone().masked_fill(~mask[:, None, :, None], torch.nan) for x in (q, k, v)]
    for x in poisoned:
        x.requires_grad_()
    out = linear_attention(*poisoned, mask=mask, key_norm=key_norm, causal=causal, chunk_size=4)
    expected = reference.linear_attention(q, k, v, mask, key_norm=key_norm, causal=causal)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-11)
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    for gradient in torch.autograd.grad(out.sum(), poisoned):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("key_norm", ["column", "row"])
def test_causal_output_equals_the_bidirectional_one_of_each_prefix(key_norm):
    q, k, v = _inputs(12)
    causal = linear_attention(q, k, v, key_norm=key_norm, chunk_size=5)
    for end in range(1, 13):
        prefix = [x[:, :, :end] for x in (q, k, v)]
        bidirectional = linear_attention(*prefix, key_norm=key_norm, causal=False)
        torch.testing.assert_close(causal[:, :, end - 1], bidirectional[:, :, -1], rtol=1e-9, atol=1e-11)


def test_gradients_of_zero_inputs_are_finite():
    zeros = [torch.zeros(1, 1, 3, 2, requires_grad=True) for _ in range(3)]
    out = linear_attention(*zeros)
    assert torch.equal(out, torch.zeros_like(out))
    for gradient in torch.autograd.grad(out.sum(), zeros):
        assert torch.isfinite(gradient).all()


def test_softmax_attention_equals_the_plain_loop():
    q, k, v = _inputs(7)
    mask = _left_aligned([7, 3], 7)
    out = softmax_attention(q, k, v, mask=mask)
    torch.testing.assert_close(out, reference.softmax_attention(q, k, v, mask), rtol=1e-9, atol=1e-11)
    unmasked = softmax_attention(q, k, v)
    everything = torch.ones(2, 7, dtype=torch.bool)
    torch.testing.assert_close(unmasked, reference.softmax_attention(q, k, v, everything))


def test_fused_and_unfused_attention_agree_in_values_and_gradients(monkeypatch):
    q, k, v = (x.requires_grad_() for x in _inputs(9))
    unfused = softmax_attention(q, k, v)
    gradients = torch.autograd.grad(unfused.square().sum(), (q, k, v))
    monkeypatch.setattr("easrec.models.attention._UNFUSED_POSITIONS", 8)
    fused = softmax_attention(q, k, v)
    assert "ScaledDotProduct" in fused.grad_fn.name() and "ScaledDotProduct" not in unfused.grad_fn.name()
    torch.testing.assert_close(unfused, fused)
    torch.testing.assert_close(gradients, torch.autograd.grad(fused.square().sum(), (q, k, v)))


@pytest.mark.parametrize("attention", [linear_attention, softmax_attention])
def test_products_of_narrow_heads_agree_with_those_of_wide_ones(attention, monkeypatch):
    q, k, v = _inputs(130 if attention is linear_attention else 40)
    results = []
    for widest in (0, 16):
        monkeypatch.setattr("easrec.models.attention._WIDE", widest)
        out = attention(q, k, v)
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), (q, k, v))))
        with torch.no_grad():
            torch.testing.assert_close(attention(q, k, v), out.detach(), rtol=1e-12, atol=1e-12)
    # Sums in another order differ in the last digits; had both been the same products, they would not.
    assert not all(torch.equal(wide, narrow) for wide, narrow in zip(*results, strict=True))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-11)


def test_unknown_settings_are_refused():
    q, k, v = _inputs(2)
    with pytest.raises(ValueError, match="key_norm must be 'column' or 'row', got 'both'"):
        linear_attention(q, k, v, key_norm="both")
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        linear_attention(q, k, v, chunk_size=0)


def test_no_step_of_the_backward_pass_makes_a_whole_sequence_for_each_chunk():
    """The gradient of a slice is as long as what it is a slice of: N of them would take N^2."""
    counts = {}
    for positions in (6, 12):
        q, k, v = (torch.randn(1, 1, positions, 4, requires_grad=True) for _ in range(3))
        out = linear_attention(q, k, v, chunk_size=2)
        nodes, open_nodes = set(), [out.grad_fn]
        while open_nodes:
            node = open_nodes.pop()
            if node not in nodes:
                nodes.add(node)
                open_nodes += [following for following, _ in node.next_functions if following is not None]
        counts[positions] = sum(node.name() in ("SliceBackward0", "SplitBackward0") for node in nodes)
    assert counts[6] == counts[12]
