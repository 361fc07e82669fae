import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from easrec.baselines import baseline_flops
from easrec.data.batches import Batch
from easrec.data.items import Items
from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.models.features import FDSA, FEATURE_NETWORKS, SASRecF
from easrec.models.saving import load_network, save_network
from easrec.serving.bundle import save_bundle
from easrec.serving.onnx_export import write_onnx
from easrec.serving.recommender import Recommender
from easrec.serving.streaming import StreamingNetwork
from tests.randomise import randomise
from tests.reference.features import fdsa_outputs, sasrecf_outputs

NUM_ITEMS, NUM_VALUES, LENGTH = 9, 5, 6
# Item 4 has no values, item 2 has three.
VALUES = torch.zeros(NUM_ITEMS + 1, 3, dtype=torch.int64)
for _item, _values in {1: [1], 2: [2, 3, 5], 3: [4, 1], 5: [5], 6: [1, 2], 7: [3], 8: [4], 9: [2, 1]}.items():
    VALUES[_item, : len(_values)] = torch.tensor(_values)
PLAIN = {"sasrecf": sasrecf_outputs, "fdsa": fdsa_outputs}


def _network(kind, attention="softmax", *, values=VALUES, layers=2, gate_layers=0):
    network = FEATURE_NETWORKS[kind](
        Architecture(8, 12, layers, 2, attention, gate_layers=gate_layers),
        NUM_ITEMS,
        LENGTH,
        item_values=values,
        num_values=NUM_VALUES,
    )
    randomise(network)
    with torch.no_grad():  # padding_idx rows, which training leaves at zero
        network.item_embedding.weight[0] = 0
        network.value_embedding.weight[0] = 0
    return network


@pytest.mark.parametrize("attention", ["softmax", "linear", "linear_bidirectional"])
@pytest.mark.parametrize("kind", FEATURE_NETWORKS)
def test_outputs_and_gradients_equal_the_plain_loop(kind, attention):
    network = _network(kind, attention).double()
    item_ids = torch.tensor([[2, 4, 9, 1, 3, 6], [4, 7, 0, 0, 0, 0], [8, 0, 0, 0, 0, 0]])
    outputs = network(item_ids)
    direction = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1), dtype=outputs.dtype)
    expected = [PLAIN[kind](network, row[row > 0]) for row in item_ids]
    for row, plain in zip(outputs, expected, strict=True):
        torch.testing.assert_close(row[: len(plain)], plain, rtol=1e-9, atol=1e-10)
        assert not row[len(plain) :].any()
    torch.testing.assert_close(
        network.last_outputs(item_ids), torch.stack([plain[-1] for plain in expected]), rtol=1e-9, atol=1e-10
    )
    of_plain = sum((plain * row[: len(plain)]).sum() for plain, row in zip(expected, direction, strict=True))
    names, parameters = zip(*network.named_parameters(), strict=True)
    for name, found, other in zip(
        names,
        torch.autograd.grad((outputs * direction).sum(), parameters),
        torch.autograd.grad(of_plain, parameters, allow_unused=True, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(found, other, rtol=1e-7, atol=1e-9, msg=lambda text, n=name: n + text)


@pytest.mark.parametrize("kind", FEATURE_NETWORKS)
def test_other_features_of_an_item_change_the_scores_and_their_order_does_not(kind):
    query = torch.tensor([[3, 2, 9]]), torch.tensor([3])
    scores = _network(kind).scores(*query)
    exchanged = VALUES.clone()
    exchanged[[2, 7]] = VALUES[[7, 2]]
    assert (_network(kind, values=exchanged).scores(*query) - scores)[:, 1:].abs().max() > 1e-3
    reordered = VALUES.clone()
    reordered[2] = torch.tensor([5, 2, 3])
    torch.testing.assert_close(_network(kind, values=reordered).scores(*query), scores, rtol=1e-5, atol=1e-5)
    # What is known of an item that the history does not hold plays no part.
    elsewhere = VALUES.clone()
    elsewhere[5] = torch.tensor([1, 2, 3])
    assert torch.equal(_network(kind, values=elsewhere).scores(*query), scores)


@pytest.mark.parametrize("kind", FEATURE_NETWORKS)
def test_items_without_features_give_finite_scores_and_gradients(kind):
    network = _network(kind).train()
    item_ids = torch.tensor([[4, 4, 4], [4, 0, 0]])
    loss = network.loss(Batch(item_ids, torch.tensor([[4, 1, 2], [3, 0, 0]])))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert network.eval().scores(item_ids, torch.tensor([3, 1]))[:, 1:].isfinite().all()
    assert not network.value_embedding.weight.grad.any()


@pytest.mark.parametrize("kind", FEATURE_NETWORKS)
@pytest.mark.parametrize("attention", ["softmax", "linear"])
def test_a_later_item_and_padding_never_change_an_earlier_output(kind, attention):
    network = _network(kind, attention)
    first, second = torch.tensor([[3, 1, 4, 1, 5, 9]]), torch.tensor([[3, 1, 4, 2, 6, 7]])
    torch.testing.assert_close(network(first)[:, :3], network(second)[:, :3], rtol=1e-5, atol=1e-5)
    alone = network.scores(torch.tensor([[3, 1, 4]]), torch.tensor([3]))
    beside = torch.tensor([[3, 1, 4, 0, 0, 0], [9, 2, 6, 5, 3, 5]])
    together = network.scores(beside, torch.tensor([3, 6]))
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)


def test_fdsa_gives_values_weights_that_differ_and_sasrecf_does_not():
    fdsa = _network("fdsa")
    pooled = fdsa.item_features(torch.tensor([2, 4]))
    mean = fdsa.value_embedding.weight[[2, 3, 5]].mean(dim=0)
    assert (pooled[0] - mean).abs().max() > 1e-2
    assert not pooled[1].any()


@pytest.mark.parametrize("kind", FEATURE_NETWORKS)
@pytest.mark.parametrize("attention", ["softmax", "linear_bidirectional"])
def test_flops_equal_what_torch_counts(kind, attention):
    network = _network(kind, attention, layers=3)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.tensor([[3, 1, 4, 1, 5, 9]]))
    assert baseline_flops(kind, network.architecture, 6, NUM_VALUES) == counter.get_total_flops()


@pytest.mark.parametrize("kind", FEATURE_NETWORKS)
def test_a_saved_network_scores_as_before(kind, tmp_path):
    network = _network(kind)
    save_network(network, tmp_path)
    loaded = load_network(tmp_path)
    assert type(loaded) is type(network)
    assert torch.equal(loaded.item_values, VALUES)
    query = torch.tensor([[3, 2, 4]]), torch.tensor([3])
    assert torch.equal(loaded.scores(*query), network.scores(*query))
    text = (tmp_path / "network.json").read_text()
    (tmp_path / "network.json").write_text(text.replace(f'"{kind}"', '"gru4rec"'))
    with pytest.raises(InputError, match=r"of kind 'gru4rec'; known are sasrecf, fdsa"):
        load_network(tmp_path)


def test_a_table_that_does_not_fit_is_refused():
    architecture = Architecture(8, 12, 1, 2, "softmax", gate_layers=0)
    with pytest.raises(InputError, match=r"must be int64 \(10, W\).*got torch.int64 \(9, 3\)"):
        SASRecF(architecture, NUM_ITEMS, LENGTH, item_values=VALUES[1:], num_values=NUM_VALUES)
    with pytest.raises(InputError, match=r"must hold numbers in 0\.\.4"):
        FDSA(architecture, NUM_ITEMS, LENGTH, item_values=VALUES, num_values=4)


def test_what_serves_networks_of_items_alone_refuses_the_others(tmp_path):
    network = _network("fdsa", "linear")
    items = Items(torch.arange(-1, NUM_ITEMS).numpy(), torch.ones(NUM_ITEMS + 1, dtype=torch.int64).numpy())
    for what, work in (
        ("serving", lambda: Recommender(network, items)),
        ("serving", lambda: StreamingNetwork(network)),
        ("a bundle", lambda: save_bundle(tmp_path / "bundle", network, items)),
        ("export as ONNX", lambda: write_onnx(network, tmp_path / "network.onnx")),
    ):
        with pytest.raises(
            InputError, match=f"^{what} is for networks that read items alone, and this is FDSA"
        ):
            work()
    assert list(tmp_path.iterdir()) == []
