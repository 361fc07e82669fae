"""What a sweep says at its end."""

import pandas as pd

from sweeps.rungs import Reached, Verdict
from sweeps.summary import _network, stopped_text


def verdict(architecture: str, seed: int, epoch: int) -> Verdict:
    reached = Reached(
        subject=f"{architecture} {seed}", architecture=architecture, seed=seed, epoch=epoch, accuracy=0.1,
        costs={"flops": 1.0},
    )  # fmt: skip
    return Verdict(reached, reached, 1)


def test_stopped_trials_are_counted_by_epoch_and_means_of_the_lucky_seeds_are_named() -> None:
    frame = pd.DataFrame({"architecture_id": ["a", "a", "a", "b"], "seed": [0, 2, 2, 0]})
    verdicts = [verdict("a", 1, 12), verdict("c", 0, 4), verdict("c", 0, 4)]
    assert stopped_text(verdicts, frame, num_trials=7) == [
        "3 of 7 trials stopped early by --halve-after: 2 after epoch 4, 1 after epoch 12",
        "a: figures are of 2 of its 3 seeds; the others were stopped, so they flatter it",
    ]
    assert stopped_text([], frame, num_trials=7) == []


def test_networks_of_one_size_are_told_apart_by_what_else_differs() -> None:
    row = {"num_layers": 2, "hidden_size": 16, "inner_size": 32, "num_heads": 4, "attention": "linear"}
    table = pd.DataFrame([row | {"gate_layers": gates} for gates in (0, 2)])
    shown = [_network(one, table) for one in table.to_dict("records")]
    assert shown == ["2 x 16/32 g0", "2 x 16/32 g2"]
    assert _network(row, table.drop(columns="gate_layers")) == "2 x 16/32"
