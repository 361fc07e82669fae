"""What the C library does with memory that is freed: glibc keeps more of it than training needs.

Elsewhere than on glibc nothing here has an effect.
"""

import ctypes
import sys

# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def return_freed_memory(*, at_once: bool) -> None:
    """Choose what happens to large buffers that are freed.

    By itself glibc learns to keep some of them, in an order that chance decides: the peak of the same work
    then differs by 40 % from one process to the next, and is up to twice what the work holds at any time.
    Giving them back at once makes the peak exact to 1 %, but costs time; keeping all is fast.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 128 * 1024 if at_once else 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 * 1024 if at_once else -1)


def trim_heap() -> None:
    """Give memory that is free inside the heap back to the system.

    Batches differ in size, so what one frees seldom fits the next exactly, and the heap of a process that
    trains for hours grows to several gigabytes that nothing uses. Called once an epoch, it stays at what
    an epoch needs; that takes milliseconds.
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
