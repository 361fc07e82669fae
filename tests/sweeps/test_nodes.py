"""What nodes are called in a sentence; tests/cluster asks real ones."""

from sweeps.nodes import _names


def test_nodes_are_called_by_their_addresses_and_those_that_share_one_by_their_ids_too() -> None:
    nodes = [
        {"NodeID": letter * 56, "NodeManagerAddress": address}
        for letter, address in (("a", "127.0.0.1"), ("b", "10.0.0.7"), ("c", "127.0.0.1"))
    ]
    assert _names(nodes) == [f"127.0.0.1 (id {'a' * 56})", "10.0.0.7", f"127.0.0.1 (id {'c' * 56})"]
    assert _names([]) == []
