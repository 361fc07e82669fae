import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from easrec.models import packing as module
from easrec.models.packing import Packing, num_fillers

lengths_of_sequences = st.lists(st.integers(1, 9), min_size=1, max_size=20)


@pytest.fixture(params=[1, 1 << 40], ids=["in groups", "as one"], scope="module", autouse=True)
def worth_groups(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WORTH_GROUPS", request.param)
        yield request.param


def _mask(lengths, extra=0):
    return torch.arange(max(lengths) + extra) < torch.tensor(lengths)[:, None]


@settings(deadline=None)
@given(lengths_of_sequences, st.integers(0, 2))
def test_real_positions_come_back_where_they_were_and_padding_is_zero(lengths, extra):
    mask = _mask(lengths, extra)
    values = torch.randn(*mask.shape, 2)
    packing = Packing(mask)
    packed = packing.pack(values)
    fillers = 0 if packing.full else num_fillers(sum(lengths))
    assert packed.shape == (sum(lengths) + fillers, 2)
    assert packing.full == (extra == 0 and len(set(lengths)) == 1)
    assert torch.equal(packing.unpack(packed), values.where(mask[..., None], 0.0))
    last = values[torch.arange(len(lengths)), torch.tensor(lengths) - 1]
    assert torch.equal(packed[packing.last_rows], last)


@given(st.integers(0, 1 << 20))
def test_fillers_are_few_and_leave_few_different_numbers_of_rows(num_real):
    fillers = num_fillers(num_real)
    assert 0 <= 32 * fillers <= num_real
    # A multiple of a power of two: from each power of two to the next there are at most 64 numbers.
    rows = num_real + fillers
    assert rows % (1 << max(num_real.bit_length() - 6, 0)) == 0


def test_fillers_have_no_targets_and_no_gradient():
    mask = _mask([40, 50, 7, 50])
    packing = Packing(mask)
    assert num_fillers(147) == 1
    item_ids = torch.arange(1, 201).view(4, 50) * mask
    assert packing.pack(item_ids)[-1] == 0

    values = torch.randn(4, 50, 2, requires_grad=True)
    packed = packing.pack(values)
    assert packed.shape == (148, 2)
    attended = packing.by_sequence(lambda padded: padded.cumsum(dim=1), packed)
    assert torch.equal(attended[-1], torch.zeros(2))
    packing.unpack(packed.square() + attended).sum().backward()
    assert values.grad is not None and torch.equal(values.grad != 0, mask[..., None].expand(-1, -1, 2))


@settings(deadline=None)
@given(lengths_of_sequences, st.integers(0, 2))
def test_a_function_of_sequences_sees_each_one_whole_and_alone(lengths, extra):
    mask = _mask(lengths, extra)
    values = torch.randn(*mask.shape, 2, dtype=torch.float64)
    packing = Packing(mask)
    seen = []

    def running_sums(padded):
        seen.append(padded.shape[:2])
        return padded.cumsum(dim=1)

    found = packing.unpack(packing.by_sequence(running_sums, packing.pack(values)))
    torch.testing.assert_close(found, values.cumsum(dim=1).where(mask[..., None], 0.0))
    assert sum(rows for rows, _ in seen) == len(lengths)


def test_groups_leave_most_of_the_padding_out(worth_groups):
    lengths = [3, 9, 1, 9, 2, 5, 4, 9, 6, 5, 1, 2]
    packing = Packing(_mask(lengths))
    seen = []

    def look(padded):
        seen.append(tuple(padded.shape))
        return padded

    packing.by_sequence(look, packing.pack(torch.zeros(12, 9, 1)))
    if worth_groups == 1:
        assert seen == [(3, 9, 1), (3, 6, 1), (3, 4, 1), (3, 2, 1)]
    else:
        assert seen == [(12, 9, 1)]


def test_gradients_pass_through_groups():
    mask = _mask([2, 5, 1, 5, 3])
    values = torch.randn(*mask.shape, 2, dtype=torch.float64, requires_grad=True)

    def loss(values):
        packing = Packing(mask)
        packed = packing.by_sequence(lambda padded: padded.cumsum(dim=1).sin(), packing.pack(values))
        return packing.unpack(packed).square().sum()

    assert torch.autograd.gradcheck(loss, values)
