"""Where latency and memory are measured: where trials run, or on a node that is kept for it meanwhile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from easrec.errors import InputError
from sweeps.hardware import measuring_device

RESOURCE = "latency"
"""Ray's custom resource of nodes that may measure."""
_TYPE = "accelerator_type:"


@dataclass(frozen=True, slots=True)
class MeasuringPlace:
    """What a measurement asks Ray for."""

    options: dict[str, Any]
    """Of its Ray task."""
    described: str
    """Where that is, in words such as ` on cpu of 10.0.0.7`; empty for wherever a trial may run."""


def reserved_node(measure_on: str, threads: int, nodes: Sequence[Mapping[str, Any]]) -> MeasuringPlace:
    """The whole of a node that has what --measure-on names.

    All its CPUs are asked for, and all its GPUs to measure on one: no trial can run there meanwhile.

    Args:
        measure_on: `cpu`, `cuda`, or an accelerator's type such as `A100`.
        threads: CPU threads that are measured with.
        nodes: those that are alive, as `ray.nodes` has them.

    Raises:
        InputError: there is no such node.
    """
    marked = [node for node in nodes if node["Resources"].get(RESOURCE, 0) > 0]
    if not marked:
        raise InputError(
            f"--measure-on {measure_on} needs a node with the Ray resource {RESOURCE!r}, and the cluster has "
            f"none; start one by `ray start --address HOST:PORT --resources '{{\"{RESOURCE}\": 1}}'`"
        )
    needed = {"cpu": "CPU", "cuda": "GPU"}.get(measure_on, _TYPE + measure_on.removeprefix(_TYPE))
    fitting = [node for node in marked if node["Resources"].get(needed, 0) > 0]
    if not fitting:
        raise InputError(
            f"--measure-on {measure_on}: no node with the Ray resource {RESOURCE!r} has {needed}; they have "
            f"{', '.join(sorted({name for node in marked for name in _devices(node)})) or 'neither'}"
        )
    # The same one each time, so that figures compare.
    node = max(fitting, key=lambda node: (node["Resources"].get("CPU", 0), node["NodeManagerAddress"]))
    resources, address = node["Resources"], node["NodeManagerAddress"]
    cpus = resources.get("CPU", 0.0)
    if threads > cpus:
        raise InputError(
            f"--latency-threads {threads} is more than the {cpus:g} CPUs of the node {address} that "
            f"--measure-on {measure_on} stands for; ask for fewer"
        )
    device = measuring_device(measure_on)
    options = {
        "num_cpus": cpus,
        "num_gpus": resources.get("GPU", 0.0) if device == "cuda" else 0.0,
        "resources": {RESOURCE: resources[RESOURCE]},
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
    }
    return MeasuringPlace(options, f" on {device} of {address}")


def _devices(node: Mapping[str, Any]) -> list[str]:
    return [name for name in node["Resources"] if name in ("CPU", "GPU") or name.startswith(_TYPE)]
