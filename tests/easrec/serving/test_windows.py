import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from easrec.serving.windows import NUM_WINDOWS, Windows


class TwoLists:
    """The rule of the module's docstring, with lists."""

    def __init__(self, max_length):
        self.max_length = max_length
        self.delay = (max_length + 1) // 2
        self.lists = [[], []]
        self.events = 0

    def add(self):
        """Returns the position that the event takes in each list; -1 where it takes none."""
        taken = []
        for window, items in enumerate(self.lists):
            since = self.events - window * self.delay
            if since >= 0 and since % (2 * self.delay) == 0:
                items.clear()
            takes = since >= 0 and len(items) < self.max_length
            taken.append(len(items) if takes else -1)
            if takes:
                items.append(self.events)
        self.events += 1
        return taken

    def answering(self):
        """The fuller list of those that have the last event."""
        current = [window for window in (0, 1) if self.lists[window][-1:] == [self.events - 1]]
        return max(current, key=lambda window: len(self.lists[window]))


@pytest.mark.parametrize("max_length", range(1, 10))
def test_windows_are_those_of_two_lists(max_length):
    windows, lists, phase = Windows(max_length), TwoLists(max_length), 0
    for events in range(1, 8 * max_length + 8):
        taken = lists.add()
        assert windows.next_positions()[phase].tolist() == taken
        phase = windows.next_phase()[phase]
        assert phase == windows.phase(np.array([events]))[0] != 0
        begins, counts = windows.spans(np.array([events]))
        for window in range(NUM_WINDOWS):
            begin, count = begins[0, window], counts[0, window]
            assert list(range(begin, begin + count)) == lists.lists[window]
        assert windows.answering(np.array([phase]))[0] == lists.answering()
        length = windows.answering_length(np.array([phase]))[0]
        assert length == len(lists.lists[lists.answering()])


@given(st.integers(1, 300), st.integers(0, 10**12))
def test_the_answer_stands_for_all_items_or_for_more_than_half_of_max_length(max_length, events):
    windows = Windows(max_length)
    phase = windows.phase(np.array([events]))
    assert 0 <= phase[0] < windows.num_phases
    (length,) = windows.answering_length(phase)
    if events <= max_length:
        assert length == events
    else:
        assert max_length // 2 + 1 <= length <= max_length
