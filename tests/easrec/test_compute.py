import copy
import shutil
from dataclasses import replace

import pytest
import torch

from easrec.compute import autocast, check_precision, compile_layers
from easrec.data.batches import training_batches
from easrec.errors import InputError
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.transformer import SequentialRecommender
from easrec.nas.search import SearchConfig, search
from easrec.nas.supernet import Supernet
from easrec.retrain import RetrainConfig, retrain
from tests.easrec.chains import LENGTH, chains
from tests.randomise import randomise

NETWORK = Architecture(16, 32, 1, 2)
SPACE = CandidateSpace(16, 32, 1, 2, (0, 0.5), (0, 0.5))
WEIGHTS = torch.tensor([0.3, 0.7]), torch.ones(1)

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def _batch(size=12):
    return next(training_batches(chains(32), LENGTH, size, form="windows", seed=0, epoch=1))


def _padded(batch, lengths):
    """The batch with its sequences cut to these lengths, in turn."""
    kept = torch.tensor(lengths).repeat(len(batch.item_ids))[: len(batch.item_ids)]
    real = torch.arange(LENGTH) < kept[:, None]
    return replace(batch, item_ids=batch.item_ids * real, targets=batch.targets * real)


def _last_only(batch):
    """The batch with a target at the last position alone."""
    last = batch.item_ids.count_nonzero(dim=1)[:, None] - 1
    targets = torch.where(torch.arange(LENGTH) == last, batch.targets, 0)
    return replace(batch, targets=targets, last_only=True)


@pytest.mark.parametrize("attention", ["linear", "linear_bidirectional", "softmax"])
def test_bfloat16_is_for_products_and_not_for_norms_sums_or_loss(attention):
    network = SequentialRecommender(replace(NETWORK, attention=attention), 13, LENGTH, dropout=0.0)
    layer = network.layers[0]
    found = {}
    for name in ("query_key_value", "attention_output", "feed_in", "feed_out", "attention_norm", "feed_norm"):
        getattr(layer, name).register_forward_hook(
            lambda _, __, output, name=name: found.__setitem__(name, output.dtype)
        )
    with autocast("cpu", "bfloat16"):
        loss = network.loss(_batch())
    loss.backward()
    assert loss.dtype == found.pop("attention_norm") == found.pop("feed_norm") == torch.float32
    assert set(found.values()) == {torch.bfloat16}
    assert {parameter.grad.dtype for parameter in network.parameters()} == {torch.float32}
    with autocast("cpu", "float32"):
        exact = network.loss(_batch())
    assert loss.item() == pytest.approx(exact.item(), rel=2e-3)
    assert loss.item() != exact.item()


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_training_in_bfloat16_learns_what_float32_learns(attention):
    data, config = chains(100), RetrainConfig(max_length=LENGTH, max_epochs=3, batch_size=10, dropout=0.0)
    architecture = replace(NETWORK, attention=attention)
    exact = retrain(architecture, data, config)
    rounded = retrain(architecture, data, replace(config, precision="bfloat16"))
    losses, others = ([epoch.metrics["loss"] for epoch in run.epochs] for run in (exact, rounded))
    assert others == pytest.approx(losses, rel=0.01)
    assert others != losses
    assert {value.dtype for value in rounded.model.state_dict().values()} == {torch.float32}


def test_a_search_in_bfloat16_ends_near_that_in_float32():
    config = SearchConfig(
        max_length=LENGTH, warmup_epochs=1, search_epochs=2, batch_size=10, dropout=0.0, tradeoff=0.0
    )
    exact = search(chains(100), SPACE, config)
    rounded = search(chains(100), SPACE, replace(config, precision="bfloat16"))
    for one, other in zip(exact.epochs, rounded.epochs, strict=True):
        assert other.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=0.01)
        assert other.metrics["validation_loss"] != one.metrics["validation_loss"]
    torch.testing.assert_close(
        exact.supernet.controllers.alpha, rounded.supernet.controllers.alpha, rtol=0, atol=0.02
    )


def _loss_and_gradients(module, *weights, batch):
    module.zero_grad()
    loss = module.loss(batch, *weights)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("kind", ["network", "independent", "shared"])
@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_give_the_same_loss_and_gradients_whatever_the_batch(kind, monkeypatch):
    monkeypatch.setattr("easrec.models.packing._WORTH_GROUPS", 1)
    if kind == "network":
        plain, weights = SequentialRecommender(NETWORK, 13, LENGTH, dropout=0.0), ()
    else:
        plain, weights = Supernet(replace(SPACE, weights=kind), 13, LENGTH, dropout=0.0), WEIGHTS
    randomise(plain).train()
    compiled = copy.deepcopy(plain)
    compile_layers(compiled.layers, "cpu")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    forms = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    batches = [_batch(5), _padded(_batch(12), [LENGTH, 1, 4, 2, 3])]
    for batch in [*batches, _last_only(batches[-1])]:
        value, expected = _loss_and_gradients(plain, *weights, batch=batch)
        found_value, found = _loss_and_gradients(compiled, *weights, batch=batch)
        assert found_value == pytest.approx(value, rel=1e-5)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > forms  # something was compiled


@pytest.mark.parametrize("compiled", [False, True])
def test_every_stage_compiles_its_own_layers_when_asked(compiled, monkeypatch):
    """What compiled layers compute is tested above."""
    seen = []
    for module in ("easrec.retrain", "easrec.nas.warmup", "easrec.nas.alternating"):
        monkeypatch.setattr(
            f"{module}.compile_layers", lambda *args, module=module: seen.append((module, args))
        )
    data = chains(40)
    retrained = retrain(NETWORK, data, RetrainConfig(max_length=LENGTH, max_epochs=1, compile=compiled))
    found = search(
        data,
        SPACE,
        SearchConfig(max_length=LENGTH, warmup_epochs=1, search_epochs=1, batch_size=10, compile=compiled),
    )
    expected = [
        ("easrec.retrain", (retrained.model.layers, "cpu")),
        ("easrec.nas.warmup", (found.warm_supernet.layers, "cpu")),
        ("easrec.nas.alternating", (found.supernet.layers, "cpu")),
    ]
    assert seen == (expected if compiled else [])


def test_compiling_without_a_compiler_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler.*install one"):
        compile_layers(torch.nn.ModuleList(), "cpu")


def test_unknown_precision_is_refused():
    with pytest.raises(InputError, match="'float16'"):
        check_precision("float16")
    with pytest.raises(InputError, match="precision"):
        RetrainConfig(precision="half")
    with pytest.raises(InputError, match="precision"):
        SearchConfig(precision="half")


def test_throughput_counts_training_sequences_alone():
    data = chains(50)
    config = RetrainConfig(max_length=LENGTH, max_epochs=1, batch_size=7)
    (epoch,) = retrain(NETWORK, data, config).epochs
    # A window for each user; training is a part of the epoch, so its rate is above users / duration.
    assert 50 / epoch.duration_s < epoch.sequences_per_s < 1e6
