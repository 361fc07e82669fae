"""What must hold for every service of docker/compose.yaml, as sentences about what does not."""

import re
from typing import Any

SECRETS = {"RAY_AUTH_TOKEN": "sentinel-of-ray", "POSTGRES_PASSWORD": "sentinel-of-postgres"}
"""Values of the variables that the file must be given; they may appear only where a secret belongs."""


def violations(compose: dict[str, Any], *, image_user: str) -> list[str]:
    """What is wrong with a file that Compose has read with SECRETS; `image_user` is that of our image."""
    found = []
    for name, service in compose["services"].items():
        found += [f"{name}: {sentence}" for sentence in _of_service(name, service, image_user)]
    if not compose["networks"]["database"].get("internal"):
        found.append("the database's network leads outside")
    return found


def _of_service(name: str, service: dict[str, Any], image_user: str) -> list[str]:
    found = []
    for port in service.get("ports", ()):
        if port.get("host_ip") != "127.0.0.1":
            found.append(f"port {port['target']} is published beyond this machine")
    user = service.get("user", image_user if "build" in service else "root")
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
        found.append(f"runs as {user}")
    if not service.get("read_only"):
        found.append("its root file system can be written")
    if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
        found.append("has capabilities")
    if "no-new-privileges:true" not in service.get("security_opt", ()):
        found.append("can gain privileges")
    if service.get("privileged") or service.get("network_mode") or service.get("pid"):
        found.append("shares namespaces with this machine")
    for volume in service.get("volumes", ()):
        if volume["type"] != "volume":
            found.append(f"sees {volume['source']} of this machine")
    if "healthcheck" not in service and service["restart"] != "no":
        found.append("nobody asks for its health")
    for other, dependency in service.get("depends_on", {}).items():
        if dependency["condition"] != "service_healthy":
            found.append(f"does not wait for {other} to be healthy")
    environment = service.get("environment", {})
    for variable, value in environment.items():
        secret = re.search(r"TOKEN$|PASSWORD|SECRET", variable) is not None
        if secret != (value in SECRETS.values()):
            found.append(f"{variable} is written down" if secret else f"{variable} gives a secret away")
    if any(secret in str({**service, "environment": None}) for secret in SECRETS.values()):
        found.append("a secret stands outside its environment")
    if name.startswith("ray-") or "ray start" in " ".join(service.get("entrypoint") or ()):
        if environment.get("RAY_AUTH_MODE") != "token":
            found.append("its Ray asks for no token")
        if environment.get("RAY_AUTH_TOKEN") != SECRETS["RAY_AUTH_TOKEN"]:
            found.append("its Ray has not the cluster's token")
        words = " ".join((*(service.get("entrypoint") or ()), *(service.get("command") or ())))
        store = re.search(r"--object-store-memory=(\d+)", words)
        if store is None or int(service.get("shm_size", 0)) < int(store[1]):
            found.append("has too little shared memory for Ray's object store")
    return found
