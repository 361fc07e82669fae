import itertools

import pytest
import torch
from torch.nn import functional as F

from easrec.data.batches import Batch
from easrec.errors import InputError
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.packing import Packing
from easrec.nas.resources import network_flops
from easrec.nas.supernet import Supernet
from tests.randomise import randomise

ITEM_IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0], [7, 0, 0, 0, 0]])
LENGTHS = torch.tensor([5, 3, 1])


def _space(**changes):
    settings = {
        "hidden_size": 16,
        "inner_size": 24,
        "num_layers": 3,
        "num_heads": 2,
        "hidden_intensities": (0.5, 0, 0.75),
        "inner_intensities": (0.25, 0, 0.5),
    }
    return CandidateSpace(**(settings | changes))


def _supernet(**changes):
    return randomise(Supernet(_space(**changes), num_items=12, max_length=5))


def _one_hot(size, index):
    return F.one_hot(torch.tensor(index), size).float()


@pytest.mark.parametrize("pairing", ["zip", "product"])
@pytest.mark.parametrize("weights", ["independent", "shared"])
@pytest.mark.parametrize("gate_layers", [0, 1, 2])
@pytest.mark.parametrize("attention", ["linear", "linear_bidirectional", "softmax"])
def test_a_one_hot_supernet_equals_the_network_it_extracts(attention, gate_layers, weights, pairing):
    supernet = _supernet(attention=attention, gate_layers=gate_layers, weights=weights, pairing=pairing)
    space = supernet.space
    for candidate, depth in itertools.product(range(len(space)), range(1, space.num_layers + 1)):
        chosen = _one_hot(len(space), candidate), _one_hot(space.num_layers, depth - 1)
        network = supernet.extract(space.architecture(candidate, depth)).eval()
        real = ITEM_IDS > 0
        mixed = supernet(ITEM_IDS, *chosen)[real]
        size = network.architecture.hidden_size
        assert (mixed[:, :size] - network(ITEM_IDS)[real]).abs().max() < 1e-5
        assert torch.equal(mixed[:, size:], torch.zeros_like(mixed[:, size:]))
        scores = supernet.scores(ITEM_IDS, LENGTHS, *chosen)
        difference = scores[:, 1:] - network.scores(ITEM_IDS, LENGTHS)[:, 1:]
        assert difference.abs().max() < 1e-5
        assert (scores[:, 0] == -torch.inf).all()


@pytest.mark.parametrize("weights", ["independent", "shared"])
def test_the_mixture_equals_the_equation_with_zero_masks(weights):
    """H_l = sum_k p_k pad(T_k,l(...)) and O = sum_l q_l H_l, padded to the full width at every step."""
    supernet = _supernet(weights=weights)
    space = supernet.space
    width, depth = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.6, 0.3])
    mask = ITEM_IDS > 0
    packing = Packing(mask)
    embedded = supernet.item_embedding(ITEM_IDS) + supernet.position_embedding.weight[:5]
    inputs = {}
    for k in range(3):
        size = space.sizes(k)[0]
        inputs[k] = supernet.embedding_norms[k](embedded[..., :size])
    output, previous = 0.0, None
    for index in range(3):
        mixed = torch.zeros(*ITEM_IDS.shape, 16)
        for k in range(3):
            size = space.sizes(k)[0]
            layer = supernet.extract(space.architecture(k, 3)).eval().layers[index]
            x = inputs[k] if previous is None else previous[..., :size]
            mixed[..., :size] += width[k] * packing.unpack(
                layer(packing.pack(x), packing.pack(inputs[k]), packing)
            )
        output = output + depth[index] * mixed
        previous = mixed
    torch.testing.assert_close(supernet(ITEM_IDS, width, depth)[mask], output[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_padding_neighbours_and_later_items_do_not_change_a_mixture(attention):
    supernet = _supernet(attention=attention)
    weights = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.6, 0.3])
    alone = supernet.scores(ITEM_IDS[1:2, :3], LENGTHS[1:2], *weights)
    together = supernet.scores(ITEM_IDS, LENGTHS, *weights)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-5)
    changed = ITEM_IDS.clone()
    changed[0, 3:] = 8
    before, after = supernet(ITEM_IDS, *weights), supernet(changed, *weights)
    torch.testing.assert_close(before[0, :3], after[0, :3], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before[0, 3:], after[0, 3:])


def test_candidates_and_layers_of_weight_zero_are_not_computed():
    supernet = _supernet()
    called = []
    for index, layer in enumerate(supernet.layers):
        for k, candidate in enumerate(layer.candidates):
            candidate.register_forward_hook(lambda *_, where=(index, k): called.append(where))
    supernet(ITEM_IDS, torch.tensor([0.0, 0.4, 0.6]), torch.tensor([0.5, 0.5, 0.0]))
    assert sorted(called) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    with pytest.raises(ValueError, match="some weight must differ from zero"):
        supernet(ITEM_IDS, torch.zeros(3), torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("weights", ["independent", "shared"])
@pytest.mark.parametrize("attention", ["linear", "linear_bidirectional", "softmax"])
@pytest.mark.parametrize("depth", [(0.2, 0.3, 0.5), (0.4, 0.6, 0.0), (0.0, 1.0, 0.0)])
def test_a_loss_of_last_items_needs_no_other_output_of_the_deepest_exit(attention, weights, depth):
    supernet = _supernet(attention=attention, weights=weights)
    width = torch.tensor([0.5, 0.3, 0.2], requires_grad=True)
    depth = torch.tensor(depth, requires_grad=True)
    targets = torch.zeros_like(ITEM_IDS)
    targets[torch.arange(3), LENGTHS - 1] = torch.tensor([2, 8, 3])
    of = [width, depth, *supernet.weight_parameters()]
    losses = [supernet.loss(Batch(ITEM_IDS, targets, last_only), width, depth) for last_only in (False, True)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    expected, found = (torch.autograd.grad(loss, of, materialize_grads=True) for loss in losses)
    for gradient, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, gradient, rtol=1e-3, atol=1e-5)
    rows = []
    for layer in supernet.layers:
        layer.register_forward_hook(lambda _, __, output: rows.append(len(output)))
    supernet.loss(Batch(ITEM_IDS, targets, last_only=True), width, depth)
    deepest = int(depth.nonzero().max())
    assert rows == [9] * 3 * deepest + [3] * 3


def test_shared_weights_need_as_many_parameters_as_one_network():
    shared = Supernet(_space(weights="shared"), 12, 5)
    independent = Supernet(_space(), 12, 5)

    def matrices(module):
        return sum(p.numel() for name, p in module.layers.named_parameters() if "norm" not in name)

    assert matrices(shared) == matrices(shared.extract(shared.space.architecture(1, 3)))
    assert matrices(independent) == sum(
        matrices(independent.extract(independent.space.architecture(k, 3))) for k in range(3)
    )


def test_shared_weights_are_the_rows_that_each_head_keeps_first():
    supernet = _supernet(weights="shared")
    whole = supernet.layers[0].whole
    layer = supernet.extract(supernet.space.architecture(0, 1)).layers[0]  # 8 of 16 dims, heads of 4 of 8
    keys = whole.query_key_value.weight[16:32]
    expected = torch.cat([keys[0:4, :8], keys[8:12, :8]])
    assert torch.equal(layer.query_key_value.weight[8:16], expected)
    output = whole.attention_output.weight
    assert torch.equal(layer.attention_output.weight, torch.cat([output[:8, 0:4], output[:8, 8:12]], dim=1))
    assert torch.equal(layer.feed_out.weight, whole.feed_out.weight[:8, :18])


def test_gradients_reach_every_parameter_of_a_mixture():
    for weights in ("independent", "shared"):
        supernet = _supernet(weights=weights)
        width, depth = supernet.controllers.sample(1.0)
        targets = torch.tensor([[1, 4, 1, 5, 2], [2, 6, 8, 0, 0], [3, 0, 0, 0, 0]])
        supernet.loss(Batch(ITEM_IDS, targets), width, depth).backward()
        without = [name for name, p in supernet.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []


def test_the_hard_choice_is_the_argmax_and_ties_go_to_the_larger_network():
    supernet = Supernet(_space(), 12, 5)
    assert supernet.hard_choice() == (1, 3)  # candidate 1 masks nothing
    with torch.no_grad():
        supernet.controllers.alpha.copy_(torch.tensor([0.1, 0.0, 0.1]))
        supernet.controllers.beta.copy_(torch.tensor([0.3, 0.3, 0.2]))
    assert supernet.hard_choice() == (0, 2)
    assert supernet.derive() == Architecture(8, 18, 2, 2)


def test_a_bound_on_flops_limits_the_derivation_to_what_fits():
    supernet = Supernet(_space(), 12, 5)
    with torch.no_grad():
        supernet.controllers.alpha.copy_(torch.tensor([0.0, 2.0, 1.0]))
        supernet.controllers.beta.copy_(torch.tensor([1.0, 0.0, 3.0]))
    space = supernet.space
    assert supernet.derive() == space.architecture(1, 3)
    bound = network_flops(space.architecture(1, 3), 5) - 1
    assert supernet.derive(max_flops=bound) == space.architecture(2, 3)
    smallest = network_flops(space.architecture(2, 1), 5)
    assert supernet.derive(max_flops=smallest) == space.architecture(2, 1)
    with pytest.raises(InputError, match=f"the smallest of the space needs {smallest} FLOPs"):
        supernet.derive(max_flops=smallest - 1)


@pytest.mark.parametrize("weights", ["independent", "shared"])
def test_a_saved_supernet_comes_back_whole(tmp_path, weights):
    supernet = _supernet(weights=weights)
    supernet.save(tmp_path / "supernet.safetensors")
    loaded = Supernet.load(tmp_path / "supernet.safetensors").eval()
    assert loaded.space == supernet.space
    weights = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.6, 0.3])
    assert torch.equal(loaded(ITEM_IDS, *weights), supernet(ITEM_IDS, *weights))
    with pytest.raises(InputError, match="there is no supernet file"):
        Supernet.load(tmp_path / "other.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match="is not a supernet"):
        Supernet.load(tmp_path / "junk.safetensors")


def test_an_extracted_network_is_in_the_mode_of_its_supernet():
    supernet = _supernet()
    architecture = supernet.space.architecture(0, 1)
    assert not supernet.extract(architecture).training
    assert supernet.train().extract(architecture).training
