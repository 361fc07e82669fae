import pytest
import torch
from torch.nn import functional as F

from easrec.data.batches import Batch
from easrec.errors import InputError
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.packing import Packing
from easrec.models.prediction import item_scores
from easrec.models.saving import load_network, save_network
from easrec.models.transformer import SequentialRecommender, TransformerLayer
from easrec.nas.supernet import Supernet
from tests.randomise import randomise
from tests.reference import attention as reference

ATTENTIONS = ["linear", "linear_bidirectional", "softmax"]


def _network(attention="linear", *, gate_layers=2, num_layers=2, num_items=20, max_length=6):
    architecture = Architecture(8, 12, num_layers, 2, attention, gate_layers=gate_layers)
    return randomise(SequentialRecommender(architecture, num_items, max_length))


@pytest.mark.parametrize("key_norm", ["column", "row"])
@pytest.mark.parametrize("gate_layers", [0, 1, 2])
def test_a_layer_equals_the_equations(gate_layers, key_norm):
    architecture = Architecture(8, 12, 1, 2, key_norm=key_norm, gate_layers=gate_layers)
    layer = randomise(TransformerLayer(architecture, dropout=0.2)).double()
    x, e = torch.randn(2, 3, 5, 8, dtype=torch.float64).unbind(0)
    mask = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    packing = Packing(mask)

    def heads(block):
        weight, bias = layer.query_key_value.weight, layer.query_key_value.bias
        rows = slice(8 * block, 8 * (block + 1))
        return (x @ weight[rows].T + bias[rows]).view(3, 5, 2, 4).transpose(1, 2)

    def norm(values, module):
        centred = values - values.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * module.weight + module.bias

    def gate(module):
        if gate_layers == 0:
            return 1.0
        inner = e
        if gate_layers == 2:
            inner = (e @ module.inner.weight.T + module.inner.bias).clamp_min(0)
        return 2 / (1 + torch.exp(-(inner @ module.output.weight.T + module.output.bias)))

    attended = reference.linear_attention(heads(0), heads(1), heads(2), mask, key_norm=key_norm, causal=True)
    merged = attended.transpose(1, 2).reshape(3, 5, 8)
    s = norm(x + layer.attention_output(merged), layer.attention_norm)
    z = s @ layer.feed_in.weight.T + layer.feed_in.bias
    f1 = gate(layer.inner_gate) * z * (1 + torch.erf(z / 2**0.5)) / 2
    f2 = gate(layer.outer_gate) * (f1 @ layer.feed_out.weight.T + layer.feed_out.bias)
    found = packing.unpack(layer(packing.pack(x), packing.pack(e), packing))
    expected = norm(s + f2, layer.feed_norm)
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-9, atol=1e-9)
    assert not found[~mask].any()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padding_and_other_users_do_not_change_scores(attention):
    network = _network(attention)
    alone = network.scores(torch.tensor([[3, 1, 4]]), torch.tensor([3]))
    item_ids = torch.tensor([[3, 1, 4, 0, 0, 0], [9, 2, 6, 5, 3, 5]])
    together = network.scores(item_ids, torch.tensor([3, 6]))
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        network.item_embedding.weight[0] = 7.0
    torch.testing.assert_close(
        network.scores(item_ids, torch.tensor([3, 6]))[:, 1:], together[:, 1:], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_a_later_item_never_changes_an_earlier_output(attention):
    network = _network(attention)
    item_ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    changed = torch.tensor([[3, 1, 4, 2, 6, 8]])
    before, after = network(item_ids), network(changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_one_causal_layer_equals_the_bidirectional_layer_on_each_prefix():
    causal = _network("linear", num_layers=1)
    bidirectional = _network("linear_bidirectional", num_layers=1)
    bidirectional.load_state_dict(causal.state_dict())
    window = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]])
    outputs = causal(window)
    for end in range(1, 7):
        prefix = bidirectional(window[:, :end])
        torch.testing.assert_close(outputs[:, end - 1], prefix[:, -1], rtol=1e-5, atol=1e-5)


def test_scores_are_dot_products_with_the_item_embeddings():
    network = _network()
    item_ids, lengths = torch.tensor([[3, 1, 4, 0], [2, 7, 0, 0]]), torch.tensor([3, 2])
    scores = network.scores(item_ids, lengths)
    assert scores.shape == (2, 21)
    assert torch.equal(scores[:, 0], torch.tensor([-torch.inf, -torch.inf]))
    hidden = network(item_ids)
    for row, length in enumerate((3, 2)):
        expected = network.item_embedding.weight[1:] @ hidden[row, length - 1]
        torch.testing.assert_close(scores[row, 1:], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key_norm", ["column", "row"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("num_layers", [1, 3])
def test_last_outputs_are_those_of_forward_at_the_last_items(num_layers, attention, key_norm):
    architecture = Architecture(8, 12, num_layers, 2, attention, key_norm=key_norm)
    network = randomise(SequentialRecommender(architecture, 20, 6)).eval()
    padded = torch.tensor([[3, 1, 4, 0, 0, 0], [9, 2, 6, 5, 3, 5], [7, 0, 0, 0, 0, 0]])
    for item_ids in (padded, padded[1:2], padded[:1, :3]):
        lengths = (item_ids > 0).sum(dim=1)
        expected = network(item_ids)[torch.arange(len(item_ids)), lengths - 1]
        torch.testing.assert_close(network.last_outputs(item_ids), expected, rtol=1e-5, atol=1e-5)


def test_a_history_without_items_or_beyond_the_positions_is_refused():
    network = _network()
    with pytest.raises(ValueError, match=r"every length must lie in 1\.\.3, got 0"):
        network.scores(torch.tensor([[3, 1, 4], [0, 0, 0]]), torch.tensor([3, 0]))
    with pytest.raises(ValueError, match=r"history 1 must have its 3 items first .*, got \[2, 7, 0\]"):
        network.scores(torch.tensor([[3, 1, 4], [2, 7, 0]]), torch.tensor([3, 3]))
    with pytest.raises(ValueError, match=r"history 0 must have its 2 items first"):
        network.scores(torch.tensor([[0, 1, 4]]), torch.tensor([2]))
    with pytest.raises(ValueError, match="at most max_length=6 items, got 7"):
        network(torch.ones(1, 7, dtype=torch.int64))


def test_a_new_network_starts_as_the_method_says():
    torch.manual_seed(0)
    network = SequentialRecommender(Architecture(64, 256, 1, 4), 500, 50)
    layer = network.layers[0]
    assert torch.equal(network.item_embedding.weight[0], torch.zeros(64))
    assert abs(network.item_embedding.weight[1:].std().item() - 0.02) < 0.001
    assert layer.feed_norm.eps == 1e-12
    bound = (6 / (64 + 64)) ** 0.5  # Xavier-uniform, for queries, keys and values apart
    for part in layer.query_key_value.weight.chunk(3):
        assert 0.97 * bound < part.abs().max() <= bound
    bound = (6 / (64 + 256)) ** 0.5
    assert 0.97 * bound < layer.feed_in.weight.abs().max() <= bound
    bound = (6 / 64) ** 0.5  # He-uniform
    assert 0.97 * bound < layer.inner_gate.inner.weight.abs().max() <= bound
    gate = layer.inner_gate(torch.randn(2, 3, 64))
    assert (gate - 1).abs().max() < 0.6
    assert all(
        (module.bias == 0).all() for module in network.modules() if isinstance(module, torch.nn.Linear)
    )


def test_autocast_leaves_scores_and_loss_in_float32_and_close():
    network = _network(num_items=40)
    batch = Batch(torch.tensor([[3, 1, 4, 0], [2, 7, 1, 8]]), torch.tensor([[1, 4, 5, 0], [7, 1, 8, 2]]))
    lengths = torch.tensor([3, 4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, loss = network.scores(batch.item_ids, lengths), network.loss(batch)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
    assert scores.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(loss, network.loss(batch), rtol=0.05, atol=0.05)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    outputs = torch.randn(2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = item_scores(outputs, network.item_embedding.weight)
    assert torch.equal(found, item_scores(outputs, network.item_embedding.weight))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_loss_of_last_items_needs_no_other_output(attention):
    network = _network(attention)
    item_ids = torch.tensor([[3, 1, 4, 0, 0, 0], [2, 7, 1, 8, 2, 8], [9, 0, 0, 0, 0, 0]])
    targets = torch.zeros_like(item_ids)
    targets[[0, 1, 2], [2, 5, 0]] = torch.tensor([5, 6, 7])
    parameters = list(network.parameters())
    for negatives in (None, torch.tensor([1, 5, 9])):
        losses = [network.loss(Batch(item_ids, targets, last_only), negatives) for last_only in (False, True)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-6)
        expected, found = (torch.autograd.grad(loss, parameters) for loss in losses)
        for gradient, other in zip(expected, found, strict=True):
            torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-6)


def test_a_second_derivative_is_refused_and_not_wrong():
    network = _network()
    batch = Batch(torch.tensor([[3, 1, 4]]), torch.tensor([[1, 4, 5]]))
    weight = network.layers[0].query_key_value.weight
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(network.loss(batch), weight, create_graph=True)


@pytest.mark.parametrize("chunk_elements", [1, 1 << 20])
def test_the_loss_equals_plain_cross_entropy_in_value_and_gradients(chunk_elements, monkeypatch):
    """In chunks of 16 of the 36 targets, and all at once."""
    monkeypatch.setattr("easrec.models.prediction.CHUNK_ELEMENTS", chunk_elements)
    network = _network(num_items=20)
    torch.manual_seed(0)
    item_ids, targets = torch.randint(1, 21, (2, 8, 6)).unbind(0)
    padding = torch.arange(6) >= torch.tensor([6, 2, 5, 6, 1, 6, 4, 6])[:, None]
    batch = Batch(item_ids.masked_fill(padding, 0), targets.masked_fill(padding, 0))
    parameters = list(network.parameters())
    loss = network.loss(batch)
    gradients = torch.autograd.grad(3 * loss, parameters)
    hidden, weight = network(batch.item_ids), network.item_embedding.weight
    logits = hidden @ weight.T
    logits[..., 0] = -torch.inf
    expected = F.cross_entropy(logits.view(-1, 21), batch.targets.view(-1), ignore_index=0)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    for gradient, other in zip(gradients, torch.autograd.grad(3 * expected, parameters), strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_a_saved_network_scores_as_before(tmp_path):
    network = _network("softmax", gate_layers=1)
    save_network(network, tmp_path / "network")
    loaded = load_network(tmp_path / "network")
    assert loaded.architecture == network.architecture
    assert not loaded.training
    query = torch.tensor([[3, 1, 4]]), torch.tensor([3])
    assert torch.equal(loaded.scores(*query), network.scores(*query))


def test_a_directory_without_a_network_or_with_foreign_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"network\.json is missing"):
        load_network(tmp_path)
    save_network(_network(num_layers=2), tmp_path / "deep")
    save_network(_network(num_layers=1), tmp_path / "flat")
    (tmp_path / "flat" / "weights.safetensors").replace(tmp_path / "deep" / "weights.safetensors")
    with pytest.raises(InputError, match=r"do not fit its network\.json"):
        load_network(tmp_path / "deep")


def _with_marked_dropout(monkeypatch, module_name):
    """Replace dropout by a factor of its own in each call; returns the list of (factor, share)."""
    calls = []

    def mark(x, share, training):
        assert training
        calls.append((torch.ones((), requires_grad=True), share))
        return x * calls[-1][0]

    for name in ("easrec.models.transformer", module_name):
        monkeypatch.setattr(f"{name}.dropout", mark)
    return calls


def test_dropout_acts_on_the_embeddings_and_before_each_residual_sum(monkeypatch):
    calls = _with_marked_dropout(monkeypatch, "easrec.models.transformer")
    network = _network(num_layers=2).train()
    network.dropout = 0.3
    output = network(torch.tensor([[3, 1, 4, 1, 5, 9]]))
    # The embeddings once, then attention and feed-forward network of each of two layers.
    assert [share for _, share in calls] == [0.3, 0.2, 0.2, 0.2, 0.2]
    gradients = torch.autograd.grad(output.square().sum() + output[..., 0].sum(), [f for f, _ in calls])
    assert all(gradient.abs() > 1e-6 for gradient in gradients)


def test_dropout_acts_on_each_candidates_embeddings_in_a_supernet(monkeypatch):
    calls = _with_marked_dropout(monkeypatch, "easrec.nas.supernet")
    space = CandidateSpace(8, 12, 1, 2, (0, 0.5), (0, 0.5))
    supernet = randomise(Supernet(space, 20, 6, dropout=0.1)).train()
    output = supernet(torch.tensor([[3, 1, 4, 1, 5, 9]]), torch.tensor([0.5, 0.5]), torch.tensor([1.0]))
    assert [share for _, share in calls] == [0.1] * (2 + 2 * 2)
    gradients = torch.autograd.grad(output[..., 0].sum(), [factor for factor, _ in calls])
    assert all(gradient.abs() > 1e-6 for gradient in gradients)


@pytest.mark.parametrize("gate_layers", [1, 2])
def test_gradients_of_gates_reach_the_embeddings(gate_layers):
    layer = randomise(TransformerLayer(Architecture(8, 12, 1, 2, gate_layers=gate_layers), 0.0)).double()
    packing = Packing(torch.ones(1, 3, dtype=torch.bool))
    x = torch.randn(3, 8, dtype=torch.float64)
    embeddings = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda e: (layer(x, e, packing) * weights).sum(), embeddings)
    (gradient,) = torch.autograd.grad((layer(x, embeddings, packing) * weights).sum(), embeddings)
    assert gradient.abs().max() > 1e-3
