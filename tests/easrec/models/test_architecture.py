import pytest

from easrec.errors import InputError
from easrec.models.architecture import Architecture, CandidateSpace


def test_candidates_keep_the_sizes_that_the_intensities_leave():
    space = CandidateSpace(64, 256, 4, 4, (0, 0.25, 0.5), (0, 0.5, 0.75))
    assert [space.sizes(k) for k in range(len(space))] == [(64, 256), (48, 128), (32, 64)]
    assert space.architecture(1, 3) == Architecture(48, 128, 3, 4)


def test_product_pairs_every_intensity():
    space = CandidateSpace(8, 8, 1, 2, (0, 0.5), (0, 0.5), pairing="product")
    assert [space.sizes(k) for k in range(len(space))] == [(8, 8), (8, 4), (4, 8), (4, 4)]


def test_a_space_lists_every_network_once():
    space = CandidateSpace(8, 8, 3, 2, (0, 0.5), (0, 0.5), pairing="product")
    listed = space.architectures()
    assert len({one.architecture_id for one in listed}) == len(listed) == 4 * 3
    assert [(space.candidate_of(one), one.num_layers) for one in listed] == [
        (k, layers) for k in range(4) for layers in (1, 2, 3)
    ]


def test_json_round_trips():
    architecture = Architecture(48, 128, 2, 4, "softmax", "row", 1)
    assert Architecture.from_json(architecture.to_json()) == architecture
    space = CandidateSpace(64, 256, 4, 4, [0, 0.5], [0, 0.75], attention="softmax", gate_layers=0)
    assert CandidateSpace.from_dict(space.to_dict()) == space
    with pytest.raises(InputError, match="Architecture has no field 'depth'"):
        Architecture.from_dict({"depth": 3})


def test_ids_differ_whenever_architectures_do():
    base = {"hidden_size": 8, "inner_size": 16, "num_layers": 2, "num_heads": 2}
    changes = [
        {"hidden_size": 4},
        {"inner_size": 8},
        {"num_layers": 1},
        {"num_heads": 4},
        {"attention": "softmax"},
        {"key_norm": "row"},
        {"gate_layers": 1},
    ]
    ids = {Architecture(**(base | change)).architecture_id for change in [{}, *changes]}
    assert len(ids) == len(changes) + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_intensities": (0, 0.6)}, "0.6 leaves 26 of 64"),
        ({"hidden_intensities": (0, 50)}, "write 0.5 for 50 %"),
        ({"hidden_intensities": (0, 0.99)}, "0.99 leaves 1 of 64"),
        ({"inner_intensities": (0, 0.999)}, "0.999 leaves none of 256"),
        ({"inner_intensities": (0,)}, "got 2 and 1"),
        ({"hidden_intensities": (0, 0), "inner_intensities": (0, 0)}, "comes twice"),
        ({"hidden_intensities": (), "inner_intensities": ()}, "at least one share"),
        ({"num_heads": 5}, "hidden_size=64, num_heads=5"),
        ({"num_layers": 0}, "num_layers must be a whole number of at least 1, got 0"),
        ({"attention": "linaer"}, "attention must be one of .*, got 'linaer'"),
        ({"pairing": "all"}, "pairing must be one of .*, got 'all'"),
        ({"weights": "tied"}, "weights must be one of .*, got 'tied'"),
        ({"gate_layers": 3}, "gate_layers must be one of 0, 1, 2, got 3"),
    ],
)
def test_bad_spaces_are_refused_with_their_numbers(change, message):
    good = {
        "hidden_size": 64,
        "inner_size": 256,
        "num_layers": 4,
        "num_heads": 4,
        "hidden_intensities": (0, 0.5),
        "inner_intensities": (0, 0.5),
    }
    CandidateSpace(**good)
    with pytest.raises(InputError, match=message):
        CandidateSpace(**(good | change))


def test_a_foreign_architecture_is_no_candidate():
    space = CandidateSpace(64, 256, 4, 4, (0, 0.5), (0, 0.5))
    assert space.candidate_of(Architecture(32, 128, 4, 4)) == 1
    for foreign in (Architecture(32, 128, 5, 4), Architecture(32, 256, 4, 4)):
        with pytest.raises(InputError, match="not an architecture of this space"):
            space.candidate_of(foreign)
