import pytest
import torch

from easrec.errors import InputError
from easrec.models.architecture import Architecture
from easrec.training import (
    NonFiniteLossError,
    check_finite,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
    seeded,
    training_form,
)


def test_each_seed_stage_and_epoch_has_draws_of_its_own_and_repeats_them():
    def draw(*where):
        with seeded(*where, "cpu"):
            return torch.rand(4).tolist()

    places = [(0, "search", 1), (0, "search", 2), (0, "retrain", 1), (1, "search", 1)]
    drawn = [draw(*place) for place in places]
    assert drawn == [draw(*place) for place in places]
    assert len({tuple(values) for values in drawn}) == len(places)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_names_stage_epoch_and_step(value):
    where = {"stage": "search", "epoch": 3, "step": 7, "learning_rate": 0.5}
    assert check_finite(torch.tensor(1.5), **where) == 1.5
    with pytest.raises(NonFiniteLossError, match=r"step 7 of search epoch 3.*\(0\.5\)"):
        check_finite(torch.tensor(value), **where)


def test_fingerprints_depend_on_content_and_not_on_order():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": (1, 2), "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_checkpoints_come_back_to_their_owner_alone(tmp_path):
    assert load_checkpoint(tmp_path, "me") is None
    assert load_checkpoint(None, "me") is None
    save_checkpoint(None, {"weights": torch.ones(2)}, "me")
    save_checkpoint(tmp_path, {"weights": torch.ones(2), "epochs": [{"epoch": 1}]}, "me")
    state = load_checkpoint(tmp_path, "me")
    assert torch.equal(state["weights"], torch.ones(2))
    assert state["epochs"] == [{"epoch": 1}]
    with pytest.raises(InputError, match="belongs to a run with other settings"):
        load_checkpoint(tmp_path, "you")


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"owner": "me", "evil": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="cannot be read"):
        load_checkpoint(tmp_path, "me")


def test_only_bidirectional_attention_learns_from_prefixes():
    forms = {
        attention: training_form(Architecture(8, 8, 1, 1, attention))
        for attention in ("linear", "softmax", "linear_bidirectional")
    }
    assert forms == {"linear": "windows", "softmax": "windows", "linear_bidirectional": "prefixes"}
