"""What a RayJob of KubeRay 1.6 may hold, as a JSON schema: the fields that docker/rayjob.yaml uses.

Written after KubeRay's reference of its API (ray.io/v1).
The pods in it are Kubernetes' own, and checked as such.
"""

from typing import Any


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_POD_TEMPLATE = {"type": "object", "required": ["spec"]}
# The operator writes them into a command line: numbers must be text.
_START_PARAMS = {"type": "object", "additionalProperties": {"type": "string"}}

_HEAD_GROUP = _object(
    ["template"],
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    rayStartParams=_START_PARAMS,
    template=_POD_TEMPLATE,
)
_WORKER_GROUP = _object(
    ["groupName", "minReplicas", "maxReplicas", "template"],
    groupName={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    rayStartParams=_START_PARAMS,
    template=_POD_TEMPLATE,
)
_CLUSTER = _object(
    ["headGroupSpec"],
    rayVersion={"type": "string"},
    authOptions=_object([], mode={"enum": ["disabled", "token"]}, secretName={"type": "string"}),
    headGroupSpec=_HEAD_GROUP,
    workerGroupSpecs={"type": "array", "items": _WORKER_GROUP},
)
RAY_JOB = _object(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=_object(["name"], name={"type": "string", "maxLength": 47}),
    spec=_object(
        ["entrypoint", "rayClusterSpec"],
        entrypoint={"type": "string"},
        backoffLimit=_COUNT,
        activeDeadlineSeconds={"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=_COUNT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        submitterPodTemplate=_POD_TEMPLATE,
        rayClusterSpec=_CLUSTER,
    ),
)
