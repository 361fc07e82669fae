"""A sweep's storage on a Ray cluster: its coordinator is an actor, and every node must reach the storage."""

import uuid
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from easrec.errors import InputError
from sweeps.coordinator import Coordinator, State
from sweeps.objects import ObjectStore
from sweeps.remote_store import RemoteStore

_NODES_ANSWER_S = 120.0
"""Seconds for all nodes to start a process and reach the storage."""


class RayCoordinator:
    """A coordinator that runs as an actor; see `sweeps.coordinator.Coordination`."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def acquire(self, place: str, token: str, owner: str) -> bool:
        """See `Coordinator.acquire`."""
        return bool(ray.get(self._actor.acquire.remote(place, token, owner)))

    def renew(self, place: str, token: str, owner: str) -> bool:
        """See `Coordinator.renew`."""
        return bool(ray.get(self._actor.renew.remote(place, token, owner)))

    def release(self, place: str, token: str) -> None:
        """See `Coordinator.release`."""
        ray.get(self._actor.release.remote(place, token))

    def report(self, place: str, token: str, report: dict[str, Any]) -> None:
        """See `Coordinator.report`; does not wait until it has arrived."""
        self._actor.report.remote(place, token, report)

    def finished(self, place: str) -> None:
        """See `Coordinator.finished`."""
        ray.get(self._actor.finished.remote(place))

    def forget(self, place: str) -> None:
        """See `Coordinator.forget`."""
        ray.get(self._actor.forget.remote(place))

    def state(self) -> State:
        """See `Coordinator.state`."""
        state: State = ray.get(self._actor.state.remote())
        return state


def shared_store(objects: ObjectStore) -> RemoteStore:
    """The store of a sweep on the Ray that this process has joined, with a coordinator of its own.

    Raises:
        InputError: a node does not reach the storage, or reaches another one.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    _check_nodes(objects, others)
    # On this node, since the driver asks it all the time and both end together; one that dies is replaced.
    actor = (
        ray.remote(Coordinator)
        .options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=_on_node(here))
        .remote()
    )
    return RemoteStore(objects, RayCoordinator(actor))


def _check_nodes(objects: ObjectStore, nodes: list[dict[str, Any]]) -> None:
    if not nodes:
        return
    name = f".probe-{uuid.uuid4().hex}"
    objects.write(name, b"easrec")
    task = ray.remote(_sees)
    try:
        answers = []
        for node in nodes:
            on_it = task.options(num_cpus=0, scheduling_strategy=_on_node(node["NodeID"]))
            answers.append((node["NodeManagerHostname"], on_it.remote(objects, name)))
        for host, answer in answers:
            try:
                sees = ray.get(answer, timeout=_NODES_ANSWER_S)
            except (GetTimeoutError, RayError) as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                reason = " ".join(str(cause).split())[:300] or type(cause).__name__
                raise InputError(
                    f"the node {host} of the cluster does not reach the storage: {reason}"
                ) from error
            if not sees:
                raise InputError(
                    f"the node {host} of the cluster does not see what this machine writes to --storage "
                    f"{objects.url}; name a directory that all nodes share, or a bucket"
                )
    finally:
        objects.delete(name)


def _sees(objects: ObjectStore, name: str) -> bool:
    objects.probe()
    return objects.read(name) is not None


def _on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
