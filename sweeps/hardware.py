"""What figures were measured on."""

import platform
import socket
from pathlib import Path


def cpu_name() -> str:
    """The model of this machine's CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def measuring_device(measure_on: str) -> str:
    """The device, `cpu` or `cuda`, of what --measure-on names.

    >>> measuring_device("cpu"), measuring_device("A100")
    ('cpu', 'cuda')
    """
    return "cpu" if measure_on == "cpu" else "cuda"


def hardware(device: str) -> dict[str, str]:
    """The device, the host's name, its CPU's, and its GPU's where the device is one."""
    found = {"device": device, "host": socket.gethostname(), "cpu": cpu_name()}
    if device.partition(":")[0] == "cuda":
        # Imported late: benchmarks that measure processes without torch ask for the CPU's name too.
        import torch

        found["gpu"] = torch.cuda.get_device_name(device)
    return found
