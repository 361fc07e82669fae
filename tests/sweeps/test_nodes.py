"""How nodes are asked, on a Ray of one node; tests/cluster/test_nodes.py asks two real ones."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeps.cluster import alive_nodes, ray_cluster  # chooses settings of Ray, which must not come before

from easrec.errors import InputError  # isort: skip
from sweeps import nodes
from sweeps.config import SweepConfig

SEEN_HERE = Path("/proc/self/cwd/seen")
"""A directory of one's own, which every process has by the same name."""


@pytest.fixture(scope="module")
def node() -> Iterator[dict[str, Any]]:
    """The only node there is."""
    with ray_cluster(SweepConfig(device="cpu")):
        (only,) = alive_nodes()
        yield only


def test_a_good_node_is_taken_and_the_marker_removed(node: dict[str, Any], tmp_path: Path) -> None:
    nodes.check_nodes(tmp_path, [node])
    assert list(tmp_path.iterdir()) == []
    nodes.check_nodes(None, [node])


def test_a_node_that_does_not_see_the_directory_is_named(
    node: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "seen").mkdir()
    monkeypatch.chdir(tmp_path)  # Ray's processes stay where they were started
    address, first = node["NodeManagerAddress"], node["NodeID"][:8]
    with pytest.raises(InputError) as refused:
        nodes.check_nodes(SEEN_HERE, [node])
    assert str(refused.value) == (
        f"the node {address} of the cluster does not see the output directory {SEEN_HERE}; choose an "
        "--output that all nodes share"
    )
    assert list((tmp_path / "seen").iterdir()) == []
    # Where nodes have the same address, it says too little.
    with pytest.raises(InputError, match=rf"^the node {address} \(node id {first}\) of the cluster does not"):
        nodes.check_nodes(SEEN_HERE, [node, node])
    nodes.check_nodes(None, [node])  # where the sweep's results go elsewhere, nodes need not see it


def test_a_node_with_another_program_is_named(node: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = nodes._program()
    monkeypatch.setattr(nodes, "_program", lambda: "0.0.0")
    with pytest.raises(InputError, match=rf"has easrec {theirs} and this machine 0\.0\.0; install the same"):
        nodes.check_nodes(None, [node])


def test_a_node_that_cannot_import_easrec_is_named(
    node: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(marker: Path | None) -> tuple[bool, str]:
        raise ModuleNotFoundError("No module named 'easrec'")

    monkeypatch.setattr(nodes, "_look", lacks)
    said = r"cannot run easrec \(ModuleNotFoundError: No module named 'easrec'\); install it there too"
    with pytest.raises(InputError, match=said):
        nodes.check_nodes(None, [node])


def test_a_node_that_does_not_answer_is_not_waited_for(
    node: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleeps(marker: Path | None) -> tuple[bool, str]:
        time.sleep(30)
        return True, ""

    monkeypatch.setattr(nodes, "_look", sleeps)
    monkeypatch.setattr(nodes, "_ANSWER_S", 0.5)
    address = node["NodeManagerAddress"]
    with pytest.raises(InputError, match=f"^the node {address} of the cluster did not answer within 0.5 s"):
        nodes.check_nodes(None, [node])
