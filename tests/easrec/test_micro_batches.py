"""Memory that runs out: smaller micro-batches with the same gradients, or a sentence with all sizes."""

import pytest
import torch

from easrec.micro_batches import (
    MemoryExhaustedError,
    MicroBatches,
    is_out_of_memory,
    memory_explained,
)
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.transformer import SequentialRecommender
from easrec.nas.alternating import Progress, controller_gradients
from easrec.nas.search import EasRec
from easrec.nas.search_config import SearchConfig
from easrec.nas.supernet import Supernet
from easrec.weight_steps import WeightSteps
from tests.easrec.chains import LENGTH
from tests.easrec.test_weight_steps import WHERE, _batch
from tests.randomise import randomise


class Short:
    """A loss that needs more memory than there is for more than `most` sequences."""

    def __init__(self, module, most):
        self.module, self.most = module, most
        self.seen = []

    def __call__(self, batch, negatives):
        size = len(batch.item_ids)
        self.seen.append(size)
        if size > self.most:
            torch.rand(3)  # an attempt that is given up has drawn something
            torch.empty(2**60, dtype=torch.uint8)  # no machine has it: the allocator's own error
        return self.module.loss(batch, negatives)


def _steps(module, **settings):
    return WeightSteps(module.parameters(), module.item_embedding, learning_rate=0.01, **settings)


def _network(dropout=0.0):
    return randomise(SequentialRecommender(Architecture(16, 32, 1, 1), 13, LENGTH, dropout=dropout))


def test_an_allocation_that_fails_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")
    )
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(MemoryExhaustedError("out of memory in step 1"))


def test_a_step_that_does_not_fit_is_repeated_in_halves_and_ends_where_the_whole_batch_does():
    whole, parts = _network(), _network()
    parts.load_state_dict(whole.state_dict())
    short = Short(parts, most=4)
    expected, steps = _steps(whole), _steps(parts)
    for step in (1, 2):
        where = {**WHERE, "step": step}
        value = steps.step(_batch(12), short, **where)
        assert value == pytest.approx(expected.step(_batch(12), whole.loss, **where), rel=1e-6)
    assert short.seen == [12, 6, 3, 3, 3, 3, 3, 3, 3, 3], "what fitted once is kept"
    assert steps.micro_batches.size == 3
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weight, rtol=1e-4, atol=1e-6)


def test_what_is_drawn_does_not_depend_on_the_attempts_that_were_given_up():
    states = []
    for most, settings in ((3, {}), (100, {"micro_batch_size": 3})):
        network = _network(dropout=0.5).train()
        torch.manual_seed(0)
        _steps(network, **settings).step(_batch(12), Short(network, most), **WHERE)
        states.append((network.state_dict(), torch.rand(2)))
    (first, drawn), (second, drawn_too) = states
    assert torch.equal(drawn, drawn_too)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_single_sequence_that_does_not_fit_ends_with_all_sizes():
    network = _network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    message = (
        r"^out of memory in step 7 of search epoch 2, in micro-batches of 12, 6, 3, 1 \(12 sequences of "
        rf"{LENGTH} positions in the batch, [\d,]+ weights, an item table of 14 x 16\); make .*"
        r"DefaultCPUAllocator: can't allocate memory: you tried to allocate 1152921504606846976 bytes"
    )
    with pytest.raises(MemoryExhaustedError, match=message):
        _steps(network).step(_batch(12), Short(network, most=0), stage="search", epoch=2, step=7)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_onednn_that_has_no_room_for_its_code_is_done_without(monkeypatch):
    network, sizes = _network(), []

    def short(batch, negatives):
        sizes.append(len(batch.item_ids))
        if torch.backends.mkldnn.enabled:
            raise RuntimeError("could not create a primitive")
        return network.loss(batch, negatives)

    monkeypatch.setattr(torch.backends.mkldnn, "enabled", True)
    steps = _steps(network)
    steps.step(_batch(12), short, **WHERE)
    assert sizes == [12, 12]
    assert steps.micro_batches.size is None


def test_other_errors_are_not_repeated():
    calls = []

    def broken(batch, negatives):
        calls.append(batch)
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        _steps(_network()).step(_batch(), broken, **WHERE)
    assert len(calls) == 1


def test_the_size_that_fitted_goes_with_the_optimisers_state():
    network = _network()
    steps = _steps(network)
    steps.step(_batch(12), Short(network, most=6), **WHERE)
    resumed = _steps(network)
    resumed.load_state_dict(steps.state_dict())
    assert resumed.micro_batches.size == 6


def test_the_controllers_gradients_of_micro_batches_are_those_of_the_whole_batch():
    space = CandidateSpace(16, 32, 2, 1, (0, 0.5), (0, 0.5))
    supernet = randomise(Supernet(space, 13, LENGTH, dropout=0.0)).eval()
    config = SearchConfig(max_length=LENGTH, tradeoff=0.7)
    found = []
    for size in (None, 5):
        torch.manual_seed(0)
        choosing = EasRec().start(supernet, config, torch.tensor([1.0, 0.4]))
        choosing.begin_epoch()
        choosing.begin_step(Progress(step=20, planned_steps=100))
        step = controller_gradients(choosing, _batch(12), config, MicroBatches(size, "cpu"), "cpu")
        found.append((*step, torch.rand(1)))
    (loss, parts, gradients, drawn), (loss_too, parts_too, gradients_too, drawn_too) = found
    torch.testing.assert_close(loss_too, loss, rtol=1e-5, atol=0)
    assert parts_too == pytest.approx(parts, rel=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients)
    for gradient, other in zip(gradients, gradients_too, strict=True):
        torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-6)
    assert torch.equal(drawn, drawn_too), "one Gumbel sample, however many parts"


def test_memory_that_runs_out_elsewhere_says_where_and_of_which_sizes():
    with (
        pytest.raises(MemoryExhaustedError, match=r"^out of memory in the search \(2 of 3\), where smaller"),
        memory_explained("the search", "2 of 3"),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(ValueError, match="other"), memory_explained("the search", ""):
        raise ValueError("other")
