"""Whether the nodes of a cluster can work for a sweep, asked of two real ones."""

from pathlib import Path

import pytest

from sweeps.store import code_version
from tests.cluster.two_nodes import two_nodes

pytestmark = pytest.mark.slow

NODE = ("--num-cpus=1",)
SEEN_HERE = "/proc/self/cwd/seen"
"""A directory of one's own, which every process has by the same name."""


def test_good_nodes_are_taken_and_others_named(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("head", "other")]
    for place in places:
        place.mkdir()
    (places[0] / "seen").mkdir()
    shared = tmp_path / "shared"
    shared.mkdir()
    with two_nodes(NODE, NODE, places=places) as cluster:
        assert cluster.run("asking", shared, "same") is None
        assert list(shared.iterdir()) == []  # the file that they looked for is gone
        # The driver is where the head is, and so sees its directory; the other node is elsewhere.
        assert cluster.run("asking", SEEN_HERE, "same", cwd=places[0]) == (
            f"the node 127.0.0.3 of the cluster does not see the output directory {SEEN_HERE}; choose an "
            "--output that all nodes share"
        )
        assert list((places[0] / "seen").iterdir()) == []
        assert cluster.run("asking", "-", "same", cwd=places[0]) is None
        theirs = code_version().partition("+")[0]
        assert cluster.run("asking", "-", "program") in {
            f"the node 127.0.0.{n} of the cluster has easrec {theirs} and this machine 0.0.0; install the "
            "same on all"
            for n in (2, 3)
        }
        assert cluster.run("asking", shared, "module") in {
            f"the node 127.0.0.{n} of the cluster cannot run easrec (ModuleNotFoundError: No module named "
            "'easrec'); install it there too, or send the sweep by `ray job submit` with its code"
            for n in (2, 3)
        }
        assert list(shared.iterdir()) == []
        cluster.other.kill()
        assert cluster.run("asking", "-", "gone") == (
            "the node 127.0.0.3 has left the cluster; start the sweep again, with it or without"
        )
        assert cluster.run("asking", shared, "same") is None  # that of the head is enough
