"""Whether the nodes of a cluster can work for a sweep, asked of two real ones."""

import re
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
        good, other_program, gone, no_module, late = cluster.run(
            "asking", shared, "same", "program", "gone", "module", "late"
        )
        assert list(shared.iterdir()) == []  # the file that they looked for is gone
        assert good is None
        theirs = code_version().partition("+")[0]
        assert other_program in named(
            f"has easrec {theirs} and this machine 0.0.0; install the same on all",
        )
        assert no_module in named(
            "cannot run easrec (ModuleNotFoundError: No module named 'driver_only'); install it there too, "
            "or send the sweep by `ray job submit` with its code"
        )
        assert late in named("did not answer within 1 s; see what holds it up, or take it out of the cluster")
        assert re.fullmatch(
            r"the node 127\.0\.0\.9 of the cluster cannot be asked \(.*doesn't exist any more.*\); see `ray "
            "status`, and start the sweep again when the node is back or gone",
            gone,
        )
        # The driver is where the head is, and so sees its directory; the other node is elsewhere.
        assert cluster.run("asking", SEEN_HERE, "same", cwd=places[0]) == [
            f"the node 127.0.0.3 of the cluster does not see the output directory {SEEN_HERE}; choose an "
            "--output that all nodes share"
        ]
        assert list((places[0] / "seen").iterdir()) == []
        assert cluster.run("asking", "-", "same", cwd=places[0]) == [None]


def named(what: str) -> set[str]:
    """What may be said of either node: both are as they should not be, and one of them is named."""
    return {f"the node 127.0.0.{n} of the cluster {what}" for n in (2, 3)}
