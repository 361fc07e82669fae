import itertools

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from easrec.errors import InputError
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.transformer import SequentialRecommender
from easrec.nas.resources import (
    candidate_costs,
    executed_flops,
    layer_flops,
    layer_parameters,
    network_flops,
    network_parameters,
    request_flops,
    resource_term,
    scoring_flops,
    smallest_flops,
)

SIZES = [(8, 12, 1, 2), (16, 24, 3, 4), (64, 256, 2, 4)]


def _counted(architecture, positions, *, scores=False):
    model = SequentialRecommender(architecture, num_items=30, max_length=positions).eval()
    item_ids = torch.randint(1, 31, (1, positions))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        if scores:
            model.scores(item_ids, torch.tensor([positions]))
        else:
            model(item_ids)
    return counter.get_total_flops()


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("gate_layers", [0, 1, 2])
@pytest.mark.parametrize("attention", ["linear_bidirectional", "softmax"])
@pytest.mark.parametrize("positions", [1, 7, 50])
def test_network_flops_equal_what_torch_counts(sizes, gate_layers, attention, positions):
    architecture = Architecture(*sizes, attention=attention, gate_layers=gate_layers)
    assert network_flops(architecture, positions) == _counted(architecture, positions)
    assert network_flops(architecture, positions) == sizes[2] * layer_flops(architecture, positions)
    # The counter also counts the padding row's score, which nobody asks for.
    padding_score = 2 * architecture.hidden_size
    assert _counted(architecture, positions, scores=True) == (
        request_flops(architecture, positions, num_items=30) + padding_score
    )


def test_the_smallest_network_of_a_space_may_be_any_candidate_of_one_layer():
    space = CandidateSpace(64, 256, 3, 4, (0.75, 0, 0.5), (0.5, 0.75, 0), attention="softmax")
    assert smallest_flops(space, 7) == _counted(space.architecture(0, 1), 7)


def test_a_request_costs_less_than_all_outputs_and_scores():
    architecture = Architecture(64, 256, 1, 4)
    all_outputs = network_flops(architecture, 50) + scoring_flops(architecture, 1682)
    assert request_flops(architecture, 50, 1682) < 0.5 * all_outputs
    # Of one position it is the layer with 4 d for attention, a weight and a value, in place of 4 d^2 / h.
    one_position = layer_flops(architecture, 1) - 4 * 64 * 16 + 4 * 64
    assert request_flops(architecture, 1, 1682) == one_position + 2 * 64 * 1682


def test_causal_linear_attention_costs_what_its_bidirectional_form_costs():
    causal = Architecture(16, 24, 2, 4, "linear")
    bidirectional = Architecture(16, 24, 2, 4, "linear_bidirectional")
    assert network_flops(causal, 50) == network_flops(bidirectional, 50)


@pytest.mark.parametrize("positions", [1, 63, 64, 65, 200])
def test_executed_flops_equal_what_torch_counts_on_the_chunked_path(positions):
    architecture = Architecture(16, 24, 2, 4)
    assert executed_flops(architecture, positions) == _counted(architecture, positions)
    softmax = Architecture(16, 24, 2, 4, "softmax")
    assert executed_flops(softmax, positions) == network_flops(softmax, positions)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("gate_layers", [0, 1, 2])
def test_parameters_equal_those_of_the_module(sizes, gate_layers):
    architecture = Architecture(*sizes, gate_layers=gate_layers)
    model = SequentialRecommender(architecture, num_items=30, max_length=9)
    assert network_parameters(architecture, 30, 9) == sum(p.numel() for p in model.parameters())
    assert layer_parameters(architecture) == sum(p.numel() for p in model.layers[0].parameters())


def test_candidate_costs_are_those_of_one_layer():
    space = CandidateSpace(16, 24, 3, 2, (0, 0.5), (0, 0.5))
    candidates = [Architecture(16, 24, 1, 2), Architecture(8, 12, 1, 2)]
    assert candidate_costs(space, "flops", 5).tolist() == [layer_flops(c, 5) for c in candidates]
    assert candidate_costs(space, "params", 5).tolist() == [layer_parameters(c) for c in candidates]
    with pytest.raises(InputError, match="resource must be one of flops, params, latency, got 'energy'"):
        candidate_costs(space, "energy", 5)


def test_the_resource_term_at_one_hot_is_its_closed_form():
    costs = torch.tensor([40.0, 25.0, 10.0])
    for k, depth in itertools.product(range(3), range(1, 5)):
        width, exits = torch.eye(3)[k], torch.eye(4)[depth - 1]
        expected = depth * costs[k] / (4 * 40)
        for depth_cost in ("straight_through", "hard", "expected"):
            term = resource_term(costs, width, exits, depth, depth_cost)
            torch.testing.assert_close(term, expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(
            resource_term(costs, width, exits, depth, "static"), costs[k] / 40, rtol=1e-6, atol=0
        )
    assert resource_term(costs, torch.eye(3)[0], torch.eye(4)[3], 4) == 1


@pytest.mark.parametrize(
    ("depth_cost", "value_depth", "gradient"),
    [
        ("straight_through", 3.0, [1.0, 2.0, 3.0]),
        ("hard", 3.0, None),
        ("expected", 0.2 * 1 + 0.5 * 2 + 0.3 * 3, [1.0, 2.0, 3.0]),
        ("static", 3.0, None),
    ],
)
def test_each_depth_cost_has_its_value_and_its_gradient(depth_cost, value_depth, gradient):
    costs, width = torch.tensor([40.0, 10.0]), torch.tensor([0.4, 0.6])
    exits = torch.tensor([0.2, 0.5, 0.3], requires_grad=True)
    term = resource_term(costs, width, exits, 3, depth_cost)
    mean_cost = (0.4 * 40 + 0.6 * 10) / (3 * 40)
    assert term.item() == pytest.approx(value_depth * mean_cost)
    if gradient is None:
        assert not term.requires_grad
    else:
        (found,) = torch.autograd.grad(term, exits)
        assert found.tolist() == pytest.approx([mean_cost * g for g in gradient])


def test_impossible_depths_are_refused():
    with pytest.raises(ValueError, match=r"hard_depth must lie in 1\.\.2, got 3"):
        resource_term(torch.ones(1), torch.ones(1), torch.ones(2) / 2, 3)
    with pytest.raises(ValueError, match=r"depth_cost must be one of .*, got 'soft'"):
        resource_term(torch.ones(1), torch.ones(1), torch.ones(2) / 2, 1, "soft")
