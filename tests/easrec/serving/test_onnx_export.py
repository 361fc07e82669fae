import math
import time

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.models.transformer import SequentialRecommender
from easrec.nas.resources import network_parameters
from easrec.serving import onnx_export
from easrec.serving.onnx_export import IR_VERSION, OPSET, write_onnx
from tests.randomise import randomise

NUM_ITEMS = 30
ATTENTIONS = ["linear", "linear_bidirectional", "softmax"]


def _network(architecture, max_length, num_items=NUM_ITEMS):
    return randomise(SequentialRecommender(architecture, num_items, max_length))


def _session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _exported(model, folder):
    write_onnx(model, folder / "model.onnx")
    session = _session(folder / "model.onnx")

    def scores(item_ids, lengths):
        return session.run(["scores"], {"item_ids": item_ids.numpy(), "lengths": lengths.numpy()})[0]

    return scores


def _histories(lengths, max_length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)
    item_ids = torch.randint(1, NUM_ITEMS + 1, (len(lengths), max_length), generator=generator)
    return item_ids * (torch.arange(max_length) < lengths[:, None]), lengths


@torch.no_grad()
def _assert_equal(model, scores, item_ids, lengths):
    found, wanted = scores(item_ids, lengths), model.scores(item_ids, lengths).numpy()
    assert found.dtype == np.float32
    assert np.isneginf(found[:, 0]).all()
    assert np.isfinite(found[:, 1:]).all()
    np.testing.assert_allclose(found[:, 1:], wanted[:, 1:], rtol=0, atol=1e-4)


# 130 positions are three chunks of 44, two of whose positions lie past the last one.
@pytest.mark.parametrize(("num_layers", "max_length"), [(1, 7), (3, 7), (1, 130), (3, 130)])
@pytest.mark.parametrize("gate_layers", [0, 1, 2])
@pytest.mark.parametrize("key_norm", ["column", "row"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_scores_equal_torch(attention, key_norm, gate_layers, num_layers, max_length, tmp_path):
    architecture = Architecture(8, 12, num_layers, 2, attention, key_norm, gate_layers)
    model = _network(architecture, max_length)
    scores = _exported(model, tmp_path)
    _assert_equal(model, scores, *_histories(range(1, max_length + 1), max_length))
    for length in (1, max_length // 2, max_length):
        _assert_equal(model, scores, *_histories([length], max_length, seed=length))


@settings(max_examples=40, deadline=None)
@given(
    attention=st.sampled_from(ATTENTIONS),
    key_norm=st.sampled_from(["column", "row"]),
    gate_layers=st.integers(0, 2),
    num_layers=st.integers(1, 3),
    num_heads=st.integers(1, 3),
    head_size=st.integers(1, 6),
    inner_size=st.integers(1, 20),
    max_length=st.sampled_from([1, 2, 3, 50, 63, 64, 65, 127, 128, 129, 200]),
    data=st.data(),
)
def test_scores_equal_torch_for_all_sizes(
    attention,
    key_norm,
    gate_layers,
    num_layers,
    num_heads,
    head_size,
    inner_size,
    max_length,
    data,
    tmp_path_factory,
):
    architecture = Architecture(
        num_heads * head_size, inner_size, num_layers, num_heads, attention, key_norm, gate_layers
    )
    model = _network(architecture, max_length)
    scores = _exported(model, tmp_path_factory.mktemp("onnx"))
    lengths = data.draw(st.lists(st.integers(1, max_length), min_size=1, max_size=5))
    _assert_equal(model, scores, *_histories(lengths, max_length))


@pytest.mark.parametrize("key_norm", ["column", "row"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_keys_and_queries_of_zeros_give_what_torch_gives(attention, key_norm, tmp_path):
    model = _network(Architecture(8, 12, 2, 2, attention, key_norm), 6)
    with torch.no_grad():
        for layer in model.layers:
            layer.query_key_value.weight[:16] = 0
            layer.query_key_value.bias[:16] = 0
    _assert_equal(model, _exported(model, tmp_path), *_histories([1, 3, 6], 6))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_neither_ids_behind_a_history_nor_other_users_play_a_part(attention, tmp_path):
    model = _network(Architecture(8, 12, 2, 2, attention), 70)
    scores = _exported(model, tmp_path)
    item_ids, lengths = _histories([1, 20, 69, 70], 70)
    clean = scores(item_ids, lengths)
    behind = torch.where(item_ids > 0, item_ids, 5)
    np.testing.assert_array_equal(scores(behind, lengths), clean)
    for user in range(4):
        alone = scores(item_ids[user : user + 1], lengths[user : user + 1])
        np.testing.assert_allclose(alone[0], clean[user], rtol=0, atol=1e-5)


def test_the_graph_says_what_it_takes_and_gives(tmp_path):
    model = _network(Architecture(8, 12, 2, 2), 70)
    write_onnx(model, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", OPSET)]
    assert graph.ir_version == IR_VERSION
    session = _session(tmp_path / "model.onnx")
    assert [(value.name, value.type, value.shape) for value in session.get_inputs()] == [
        ("item_ids", "tensor(int64)", ["batch", 70]),
        ("lengths", "tensor(int64)", ["batch"]),
    ]
    assert [(value.name, value.type, value.shape) for value in session.get_outputs()] == [
        ("scores", "tensor(float)", ["batch", NUM_ITEMS + 1])
    ]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_one_file_holds_every_weight_once(attention, tmp_path):
    architecture = Architecture(16, 24, 3, 2, attention)
    model = _network(architecture, 300, num_items=2000)
    write_onnx(model, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    weights = 4 * network_parameters(architecture, 2000, 300)
    # Beside weights: operators by name, and some numbers for each position.
    assert weights < (tmp_path / "model.onnx").stat().st_size < weights + 40_000
    stored = [math.prod(tensor.dims) for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert sorted(stored)[-2:] == [300 * 16, 2001 * 16]


def test_equal_networks_give_equal_files_in_training_too(tmp_path):
    first, second = (_network(Architecture(8, 12, 2, 2), 9) for _ in range(2))
    second.train()
    write_onnx(first, tmp_path / "first.onnx")
    write_onnx(second, tmp_path / "second.onnx")
    assert second.training
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    write_onnx(randomise(first, seed=1), tmp_path / "first.onnx")
    assert (tmp_path / "first.onnx").read_bytes() != (tmp_path / "second.onnx").read_bytes()


def test_an_export_is_quick_and_silent_with_many_positions_too(tmp_path, capfd):
    model = _network(Architecture(64, 256, 4, 4), 2000)
    start = time.perf_counter()
    write_onnx(model, tmp_path / "model.onnx")
    assert time.perf_counter() - start < 3  # tens of milliseconds where nothing else runs
    assert capfd.readouterr() == ("", "")


def test_a_network_larger_than_an_onnx_file_is_refused(tmp_path, monkeypatch):
    model = _network(Architecture(8, 12, 1, 2), 9)
    monkeypatch.setattr(onnx_export, "LARGEST_FILE", (1 << 20) + 1000)
    with pytest.raises(InputError, match="keep fewer than 30 items, or choose a hidden_size below 8"):
        write_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
