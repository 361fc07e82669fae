"""Peak memory of a piece of work in this process: resident memory, or what torch allocated on a GPU."""

import gc
import sys
from pathlib import Path

import psutil
import torch

from easrec.allocator import trim_heap

MIB = 2**20


def start_peak(device: str | torch.device) -> int:
    """Begin to count the peak afresh; returns the bytes held now."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    trim_heap()  # freed memory that is still resident would be used again without showing
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
