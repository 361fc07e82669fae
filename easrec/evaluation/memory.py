"""Peak memory of a piece of work in this process: resident memory, or what torch allocated on a GPU."""

import ctypes
import gc
import sys
from pathlib import Path

import psutil
import torch

MIB = 2**20

# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def return_freed_memory(*, at_once: bool) -> None:
    """Choose what the C library does with large buffers that are freed (glibc; elsewhere nothing happens).

    By itself glibc learns to keep some of them, in an order that chance decides: the peak of the same work
    then differs by 40 % from one process to the next, and is up to twice what the work holds at any time.
    Giving them back at once makes the peak exact to 1 %, but costs time; keeping all is fast.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 128 * 1024 if at_once else 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 * 1024 if at_once else -1)


def start_peak(device: str | torch.device) -> int:
    """Begin to count the peak afresh; returns the bytes held now."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)  # freed memory that is still resident would be used again without showing
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return int(psutil.Process().memory_info().rss)


def peak_mib(device: str | torch.device, before: int) -> float:
    """The peak since `start_peak` above the bytes that it returned, in MiB."""
    if torch.device(device).type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    elif sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        peak = int(line.split()[1]) * 1024
    else:
        import resource  # macOS: bytes, and the peak since the process began

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak - before) / MIB


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
