import subprocess
import sys

import pytest

# In a process of its own: the free memory of this one would hide what is given back.
PROGRAM = """
import psutil, torch
from easrec.allocator import trim_heap

def rss_mib():
    return psutil.Process().memory_info().rss / 2**20

tensors = [torch.ones(2**14) for _ in range(3200)]  # 64 KiB each, too small to be mapped by themselves
last = tensors[-1]  # at the top of the heap: nothing below it is given back when it is freed
full = rss_mib()
del tensors
freed = rss_mib()
trim_heap()
print(full - freed, freed - rss_mib(), last.sum().item())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_memory_that_is_free_inside_the_heap_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    kept_back, given_back, last = map(float, done.stdout.split())
    assert last == 2**14
    assert kept_back < 20, "the C library gave the memory back by itself: the test shows nothing"
    assert given_back > 150
