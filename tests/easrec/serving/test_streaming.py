import copy
import math

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.models.transformer import SequentialRecommender
from easrec.nas.resources import layer_flops, network_flops
from easrec.serving import streaming
from easrec.serving.states import UserStates
from easrec.serving.step_graphs import output_graph, update_graph
from easrec.serving.streaming import StreamingNetwork, output_flops, update_flops
from tests.randomise import randomise

NUM_ITEMS = 40
ARCHITECTURES = [
    Architecture(8, 12, num_layers, 2, "linear", key_norm, gate_layers)
    for num_layers in (1, 2, 3)
    for key_norm in ("column", "row")
    for gate_layers in (0, 1, 2)
]


def _streaming(architecture=ARCHITECTURES[2], max_length=7, seed=0):
    return StreamingNetwork(randomise(SequentialRecommender(architecture, NUM_ITEMS, max_length), seed=seed))


def _items(*shape, seed=0):
    return np.random.default_rng(seed).integers(1, NUM_ITEMS + 1, shape)


@torch.no_grad()
def _last_outputs(model, histories):
    """By the full forward pass, in float64."""
    exact = copy.deepcopy(model).double()
    return torch.stack([exact(torch.tensor(np.array([history])))[0, -1] for history in histories])


def _assert_close(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda value: value.architecture_id)
def test_outputs_equal_the_full_forward_pass_after_every_item(architecture):
    network = _streaming(architecture)
    histories = _items(3, 7)
    states = network.start([[], [], []])
    for length in range(1, 8):
        states = network.update(states, histories[:, length - 1])
        _assert_close(network.outputs(states), _last_outputs(network.model, histories[:, :length]))


def test_outputs_of_many_positions_and_real_sizes_equal_the_full_forward_pass():
    network = _streaming(Architecture(64, 256, 4, 4), max_length=200)
    histories = _items(2, 200)
    states = network.start(histories[:, :130].tolist())
    for length in range(130, 200):
        states = network.update(states, histories[:, length])
    _assert_close(network.outputs(states), _last_outputs(network.model, histories))


@pytest.mark.parametrize("max_length", [1, 2, 7, 8])
def test_past_max_length_outputs_are_those_of_the_items_that_the_state_stands_for(max_length):
    network = _streaming(max_length=max_length)
    histories = _items(2, 4 * max_length + 5)
    states = network.start([[], []])
    for events in range(1, histories.shape[1] + 1):
        states = network.update(states, histories[:, events - 1])
        (length,) = set(network.windows.answering_length(states.phases).tolist())
        assert length == min(events, length) > max_length // 2 or length == events
        recent = histories[:, events - length : events]
        _assert_close(network.outputs(states), _last_outputs(network.model, recent))


def _assert_same_states(first, second):
    assert (first.format, len(first)) == (second.format, len(second))
    np.testing.assert_array_equal(first.phases, second.phases)
    np.testing.assert_array_equal(first.seen, second.seen)
    pairs = zip((*first.sums, *first.squares), (*second.sums, *second.squares), strict=True)
    for one, other in [*pairs, (first.embeddings, second.embeddings), (first.inputs, second.inputs)]:
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda value: value.architecture_id)
@pytest.mark.parametrize("max_length", [7, 8])
def test_a_state_started_from_a_history_is_the_one_updated_with_each_of_its_items(architecture, max_length):
    network = _streaming(architecture, max_length)
    histories = [_items(length, seed=length).tolist() for length in range(4 * max_length + 3)]
    updated = network.start([[] for _ in histories])
    for step in range(len(histories)):
        items = [history[step] if step < len(history) else 0 for history in histories]
        updated = network.update(updated, np.array(items))
    _assert_same_states(network.start(histories), updated)


def test_start_computes_many_users_in_parts(monkeypatch):
    network = _streaming()
    histories = [_items(length, seed=length).tolist() for length in (0, 3, 20, 7, 1, 0, 9)]
    whole = network.start(histories)
    monkeypatch.setattr(streaming, "PREFILL_POSITIONS", 3 * 2 * 7)
    _assert_same_states(network.start(histories), whole)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_users_of_a_batch_do_not_depend_on_each_other(data):
    network = _NETWORK
    num_users = data.draw(st.integers(1, 4))
    histories = [data.draw(st.lists(st.integers(1, NUM_ITEMS), max_size=15)) for _ in range(num_users)]
    states = network.start(histories)
    for _ in range(data.draw(st.integers(0, 5))):
        items = data.draw(st.lists(st.integers(0, NUM_ITEMS), min_size=num_users, max_size=num_users))
        states = network.update(states, np.array(items))
        for history, item in zip(histories, items, strict=True):
            history.extend([item] if item else [])
    alone = UserStates.concatenate([network.start([history]) for history in histories])
    _assert_same_states(states, alone)
    if all(histories):
        lengths = network.windows.answering_length(states.phases)
        recent = [history[-length:] for history, length in zip(histories, lengths, strict=True)]
        _assert_close(network.outputs(states), _last_outputs(network.model, recent))


_NETWORK = _streaming(ARCHITECTURES[8], max_length=5)


def test_an_update_leaves_the_states_given_as_they_were():
    network = _streaming(max_length=4)
    before = network.start([[1, 2, 3, 4], [5]])
    kept = before.to_bytes()
    for items in ([6, 7], [0, 7], [0, 0]):
        network.update(before, np.array(items))
        assert before.to_bytes() == kept
    assert network.update(before, np.array([0, 0])) is before


def test_all_items_met_are_remembered_and_no_other():
    network = _streaming(max_length=4)
    states = network.start([[40, 1, 8, 1, 7, 16], []])
    for items in ([3, 0], [0, 39], [15, 8]):
        states = network.update(states, np.array(items))
    bits = np.unpackbits(states.seen, axis=1, bitorder="little")
    assert [np.flatnonzero(row).tolist() for row in bits] == [[1, 3, 7, 8, 15, 16, 40], [8, 39]]
    forgetful = network.update(network.start([[1]], remember_seen=False), np.array([2]))
    assert forgetful.seen is None


def test_who_has_met_nothing_has_no_output():
    network = _streaming()
    with pytest.raises(ValueError, match="who has met no item has no output"):
        network.outputs(network.start([[1], []]))
    assert len(network.start([])) == 0


@pytest.mark.parametrize("attention", ["softmax", "linear_bidirectional"])
def test_attention_without_a_state_is_refused(attention):
    model = SequentialRecommender(Architecture(8, 12, 1, 2, attention), NUM_ITEMS, 7)
    with pytest.raises(InputError, match=rf"attention='{attention}' has no state.*recommend\(histories\)"):
        StreamingNetwork(model)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda value: value.architecture_id)
def test_flops_of_update_and_output_are_those_of_one_position(architecture):
    """An update does all layers in two windows, but for the last output; the output does the rest of one."""
    by_position = network_flops(architecture, 1)
    assert update_flops(architecture) == 2 * (by_position - output_flops(architecture))
    d, heads = architecture.hidden_size, architecture.num_heads
    key_and_value, product_into_sums = 4 * d * d, 2 * d * d // heads
    assert layer_flops(architecture, 1) - output_flops(architecture) == key_and_value + product_into_sums


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda value: value.architecture_id)
def test_flops_are_those_that_the_graphs_do(architecture):
    model = SequentialRecommender(architecture, NUM_ITEMS, 7)
    assert _graph_flops(update_graph(model)) == update_flops(architecture)
    assert _graph_flops(output_graph(model)) == output_flops(architecture)


def _graph_flops(graph):
    """FLOPs of the matrix products of a graph, for a batch of one."""
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True).graph
    shapes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    flops = 0
    for node in graph.node:
        if node.op_type not in ("Gemm", "MatMul", "Mul"):
            continue
        first, second = (shapes[name] for name in node.input[:2])
        outer = node.op_type == "Mul" and len(first) == 5 and first[-1] == second[-2] == 1 < second[-1]
        if node.op_type != "Mul" or outer:  # a column times a row is a matrix product written as a Mul
            flops += 2 * math.prod(shapes[node.output[0]]) * first[-1]
    return flops


def test_an_update_takes_a_nineteenth_of_the_flops_of_a_request_with_200_items():
    for architecture in (Architecture(32, 128, 1, 4), Architecture(64, 256, 4, 4)):
        model = SequentialRecommender(architecture, NUM_ITEMS, 200).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.last_outputs(torch.from_numpy(_items(1, 200)))
        assert 19 * (update_flops(architecture) + output_flops(architecture)) < counter.get_total_flops()
