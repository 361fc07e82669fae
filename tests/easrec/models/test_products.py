import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from easrec.models import products
from easrec.models.products import Linear, linear, onednn_is_faster, product, sum_of_outer_products

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
sizes = st.integers(1, 70)


@pytest.fixture(params=[False, True], ids=["torch's own", "oneDNN"])
def calls(request, monkeypatch):
    """Shapes that oneDNN was called for, after the parameter: whether it is called at all, then for all."""
    if request.param and not HAS_ONEDNN:
        pytest.skip("this torch has no oneDNN")
    seen = [request.param]
    original = products._onednn

    def noted(x, weight, bias, activation="none"):
        seen.append((*x.shape, len(weight)))
        return original(x, weight, bias, activation)

    monkeypatch.setattr(products, "_onednn", noted)
    monkeypatch.setattr(products, "onednn_is_faster", lambda: request.param)
    monkeypatch.setattr(products, "_LEAST", 0)
    monkeypatch.setattr(products, "_LEAST_OUTPUT", 0)
    return seen


@pytest.fixture(scope="module", autouse=True)
def generator():
    torch.manual_seed(0)


def _all_ways(rows, inputs, outputs):
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    grad = torch.randn(rows, outputs)
    return x, weight, bias, grad


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1), (7, 3, 5), (64, 64, 64), (100, 64, 192), (300, 32, 7), (33, 5, 400)]
)
def test_products_are_those_of_float64(calls, sizes):
    x, weight, bias, grad = _all_ways(*sizes)
    close = {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close(product(x, weight), (x.double() @ weight.double().T).float(), **close)
    torch.testing.assert_close(product(grad, weight.T), (grad.double() @ weight.double()).float(), **close)
    expected = (grad.double().T @ x.double()).float()
    found = sum_of_outer_products(grad, x)
    assert found.shape == weight.shape
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(sum_of_outer_products(grad, x, recurs=False), expected, **close)
    layer = F.linear(x.double(), weight.double(), bias.double()).float()
    torch.testing.assert_close(linear(x, weight, bias), layer, **close)
    assert len(calls) == (5 if calls[0] else 1)


@pytest.mark.parametrize("wanted", [(True, True, True), (False, True, True), (True, False, False)])
def test_gradients_are_those_of_torchs_dense_layer(calls, wanted):
    x, weight, bias, _ = _all_ways(9, 6, 11)
    ours = [t.clone().requires_grad_(w) for t, w in zip((x.view(3, 3, 6), weight, bias), wanted, strict=True)]
    theirs = [t.detach().double().requires_grad_(w) for t, w in zip(ours, wanted, strict=True)]
    found, expected = linear(*ours), F.linear(*theirs)
    assert found.shape == (3, 3, 11)
    found.sin().sum().backward()
    expected.sin().sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, other.grad.float(), rtol=1e-5, atol=1e-5)
    assert len(calls) == (2 + sum(wanted[:2]) if calls[0] else 1)


class _Operands(TorchDispatchMode):
    """Notes the matrices that oneDNN's operator is given."""

    def __init__(self):
        super().__init__()
        self.matrices = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.mkldnn._linear_pointwise.default:
            self.matrices += args[:2]
        return func(*args, **(kwargs or {}))


def test_parts_of_larger_matrices_are_multiplied_by_a_kernel(calls):
    # oneDNN has none for rows with gaps between them, as those of a candidate's share of common weights.
    shared = torch.randn(40, 50, dtype=torch.float64, requires_grad=True)
    states = torch.randn(8, 6, 30, dtype=torch.float64, requires_grad=True)
    expected = F.linear(states[:, -1], shared[:20, :30])
    expected.sin().sum().backward()
    ours = [t.detach().float().requires_grad_() for t in (shared, states)]
    with _Operands() as seen:
        found = linear(ours[1][:, -1], ours[0][:20, :30], torch.zeros(20))
        found.sin().sum().backward()
        with torch.no_grad():
            again = linear(ours[1][:, 2:], ours[0][:20, :30], torch.zeros(20))
    torch.testing.assert_close(found, expected.float())
    torch.testing.assert_close(again, F.linear(ours[1][:, 2:], ours[0][:20, :30]))
    for mine, other in zip(ours, (shared, states), strict=True):
        torch.testing.assert_close(mine.grad, other.grad.float())
    assert len(seen.matrices) == (8 if calls[0] else 0)
    assert all(x.is_contiguous() or x.T.is_contiguous() for x in seen.matrices)


@pytest.mark.parametrize("activation", ["relu", "gelu", "sigmoid"])
def test_activations_are_torchs_with_and_without_gradients(calls, activation):
    x, weight, bias, _ = _all_ways(50, 24, 40)
    plain = {"relu": torch.relu, "gelu": F.gelu, "sigmoid": torch.sigmoid}[activation]
    expected = plain(F.linear(x.double(), weight.double(), bias.double())).float()
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias, activation), expected, rtol=1e-5, atol=2e-6)
    weight.requires_grad_()
    found = linear(x, weight, bias, activation)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    (gradient,) = torch.autograd.grad(found.square().sum(), weight)
    double = weight.detach().double().requires_grad_()
    again = plain(F.linear(x.double(), double, bias.double()))
    (wanted,) = torch.autograd.grad(again.square().sum(), double)
    torch.testing.assert_close(gradient, wanted.float(), rtol=1e-4, atol=1e-3)


def test_gradients_can_be_differentiated_again(calls):
    x, weight, bias, _ = _all_ways(5, 4, 3)
    x.requires_grad_()
    weight.requires_grad_()

    def penalty(function, *tensors):
        first = torch.autograd.grad(
            function(*tensors, bias.to(tensors[0])).sin().sum(), tensors, create_graph=True
        )
        return torch.autograd.grad(sum(g.square().sum() for g in first), tensors)

    found = penalty(linear, x, weight)
    expected = penalty(
        F.linear, x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    )
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other.float(), rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(sizes, sizes, sizes)
def test_where_it_is_used_a_module_agrees_with_torchs(rows, inputs, outputs):
    """On this machine, as it comes: sizes around the least that is worth oneDNN's call."""
    layer = Linear(inputs, 8 * outputs)
    x = torch.randn(8 * rows, inputs)
    with torch.no_grad():
        expected = F.linear(x.double(), layer.weight.double(), layer.bias.double()).float()
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert set(layer.state_dict()) == {"weight", "bias"}


def test_switched_off_under_autocast_or_in_another_type_it_is_torchs_own(calls, monkeypatch):
    x, weight, bias, _ = _all_ways(8, 8, 8)
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "enabled", False)
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    assert linear(x.double(), weight.double(), bias.double()).dtype == torch.float64
    assert linear(x[0], weight, bias).shape == (8,)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("capability", "cpu_info", "expected"),
    [
        ("AVX512", "vendor_id\t: AuthenticAMD\n", HAS_ONEDNN and torch.backends.mkl.is_available()),
        ("AVX512", "vendor_id\t: GenuineIntel\n", False),
        ("AVX2", "vendor_id\t: AuthenticAMD\n", False),
        ("AVX512", None, False),
    ],
)
def test_it_is_chosen_by_the_processor(monkeypatch, tmp_path, capability, cpu_info, expected):
    if cpu_info is not None:
        (tmp_path / "cpuinfo").write_text(cpu_info)
    monkeypatch.setattr(products, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    onednn_is_faster.cache_clear()
    try:
        assert onednn_is_faster() == expected
    finally:
        onednn_is_faster.cache_clear()


def test_torchs_counter_counts_its_flops(calls):
    x, weight, bias, _ = _all_ways(8, 4, 6)
    weight.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        linear(x, weight, bias).sum().backward()
    assert counter.get_total_flops() == 2 * (2 * 8 * 4 * 6)  # the layer, and the gradient of its weights
