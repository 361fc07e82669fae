import numpy as np
import pytest
import torch

from easrec.errors import InputError
from easrec.models.prediction import item_scores
from easrec.serving import item_table as module
from easrec.serving.item_table import ConvertedTable, Int8Table, PackedFloat16Table, item_table, quantise


def _embedding(num_rows=301, hidden=24, seed=0):
    embedding = torch.randn(num_rows, hidden, generator=torch.Generator().manual_seed(seed)) * 0.3
    embedding[0] = 0
    return embedding * torch.linspace(0.1, 3, num_rows)[:, None]


def _outputs(num_users, hidden=24):
    return torch.randn(num_users, hidden, generator=torch.Generator().manual_seed(1))


def test_float32_gives_the_scores_of_the_network_and_copies_nothing():
    embedding, outputs = _embedding(), _outputs(3)
    table = item_table(embedding, "float32")
    assert torch.equal(table.scores(outputs), item_scores(outputs, embedding))
    assert table.num_bytes == 301 * 24 * 4
    embedding[5] = 0
    assert torch.equal(table.scores(outputs)[:, 5], torch.zeros(3))


@pytest.mark.parametrize("hidden", [1, 8, 24, 64, 100, 257, 300])
@pytest.mark.parametrize("num_users", [1, 7])
def test_float16_gives_the_scores_of_rounded_embeddings(num_users, hidden):
    embedding, outputs = _embedding(hidden=hidden), _outputs(num_users, hidden)
    table = item_table(embedding, "float16")
    expected = item_scores(outputs.double(), embedding.half().double())
    torch.testing.assert_close(table.scores(outputs), expected.float(), rtol=1e-4, atol=1e-4)
    assert table.num_bytes == 301 * hidden * 2


@pytest.mark.parametrize("hidden", [1, 8, 24, 64, 100, 257, 300])
@pytest.mark.parametrize("num_users", [1, 7])
def test_int8_gives_the_scores_of_quantised_embeddings_and_outputs(num_users, hidden):
    embedding, outputs = _embedding(hidden=hidden), _outputs(num_users, hidden)
    found = item_table(embedding, "int8").scores(outputs)
    values, scales = quantise(embedding)
    table = values.double() * scales.double()[:, None]
    # Each output is rounded to steps of a 127th of its largest value, half a step at most, and in blocks.
    step = outputs.abs().amax(dim=1, keepdim=True) / 127
    bound = (step / 2) @ table.abs().sum(dim=1)[None].float() + 1e-5
    expected = item_scores(outputs.double(), table)
    assert ((found[:, 1:] - expected[:, 1:]).abs() <= bound[:, 1:]).all()
    assert (found[:, 1:] - expected[:, 1:]).abs().max() > 0 or hidden == 1


def test_quantised_rows_are_as_near_as_127_steps_allow():
    embedding = _embedding()
    values, scales = quantise(embedding)
    assert values.dtype == torch.int8
    assert values.abs().amax(dim=1)[1:].eq(127).all()
    assert values[0].eq(0).all()
    error = (values * scales[:, None] - embedding).abs()
    assert (error <= scales[:, None] * 0.5001).all()


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_scores_of_a_user_do_not_depend_on_the_others(precision):
    table, outputs = item_table(_embedding(), precision), _outputs(5)
    outputs[2] *= 1000
    together = table.scores(outputs)
    for row in range(5):
        alone = table.scores(outputs[row : row + 1])
        size = 1000 if row == 2 else 1
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-4 * size)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_padding_is_never_recommended(precision):
    scores = item_table(_embedding(), precision).scores(_outputs(2))
    assert scores.shape == (2, 301)
    assert scores.dtype == torch.float32
    assert torch.isneginf(scores[:, 0]).all()
    assert torch.isfinite(scores[:, 1:]).all()


def test_tables_for_other_devices_give_the_same_scores(monkeypatch):
    """Converted in parts: here in several, and on the CPU, where their results can be compared."""
    monkeypatch.setattr(module, "CONVERTED_ROWS", 64)
    embedding, outputs = _embedding(), _outputs(3)
    half = ConvertedTable(embedding.half())
    torch.testing.assert_close(
        half.scores(outputs), item_table(embedding, "float16").scores(outputs), rtol=1e-4, atol=1e-4
    )
    values, scales = quantise(embedding)
    expected = item_scores(outputs, values * scales[:, None])
    small = ConvertedTable(values, scales)
    torch.testing.assert_close(small.scores(outputs), expected, rtol=1e-5, atol=1e-5)
    assert (half.num_bytes, small.num_bytes) == (301 * 24 * 2, 301 * 24 + 301 * 4)


def test_float16_without_fbgemm_is_converted(monkeypatch):
    assert isinstance(item_table(_embedding(), "float16"), PackedFloat16Table)
    assert isinstance(item_table(_embedding(), "int8"), Int8Table)
    monkeypatch.setattr(torch.backends.quantized.__class__, "engine", "qnnpack")
    table = item_table(_embedding(), "float16")
    assert isinstance(table, ConvertedTable)
    assert table.num_bytes == 301 * 24 * 2


def test_an_unknown_precision_is_refused():
    with pytest.raises(
        InputError, match="item_table must be one of 'float32', 'float16', 'int8', got 'int4'"
    ):
        item_table(_embedding(), "int4")


def test_half_precision_ranks_as_float32_but_for_near_ties():
    embedding, outputs = _embedding(num_rows=2000, hidden=64), _outputs(50, 64)
    exact = item_table(embedding, "float32").scores(outputs).argmax(dim=1)
    assert np.mean((item_table(embedding, "float16").scores(outputs).argmax(dim=1) == exact).numpy()) >= 0.98
    assert np.mean((item_table(embedding, "int8").scores(outputs).argmax(dim=1) == exact).numpy()) >= 0.8
