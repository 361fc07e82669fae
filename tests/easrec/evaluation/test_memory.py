import sys

import pytest
import torch

from easrec.evaluation.memory import peak_mib, start_peak

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere the peak is that of the whole process"
)


def hold_for_a_moment(mib: int) -> None:
    torch.ones(mib * 2**18)


def test_the_peak_counts_memory_that_is_freed_again() -> None:
    before = start_peak("cpu")
    hold_for_a_moment(64)
    assert peak_mib("cpu", before) == pytest.approx(64, abs=3)


def test_a_new_peak_forgets_the_one_before() -> None:
    hold_for_a_moment(96)
    before = start_peak("cpu")
    hold_for_a_moment(32)
    assert peak_mib("cpu", before) == pytest.approx(32, abs=3)
