"""The paper's figures (arXiv 2402.00390, Tables II to V), to be set beside measured ones."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from sweeps.compare_tables import ACCURACIES, SPLITS, Contest
from sweeps.compare_text import Cell, Grid
from sweeps.summary import counted

_FILES = Path(__file__).parent / "paper"
PROTOCOL = "pop100"
"""The protocol that the paper's figures fit."""

_GIB_PER_MIB = 1 / 1024


def paper_accuracy(dataset: str) -> pd.DataFrame:
    """Table III of a data set: columns such as `test_ndcg10`, the method as the paper calls it as index."""
    return _of(dataset, "table3_accuracy.csv")


def paper_costs(dataset: str) -> pd.DataFrame:
    """Table IV of a data set: `inference_s` in s and `gpu_memory_gb` in GB, methods as index."""
    return _of(dataset, "table4_efficiency.csv")


def paper_gates() -> pd.DataFrame:
    """Table V, validation figures on ML-1M: columns such as `valid_ndcg10`, the gates' layers as index."""
    return pd.read_csv(_FILES / "table5_gate_ablation_ml1m.csv").set_index("gate_layers")


def paper_settings(dataset: str) -> str:
    """How the paper came to its figures of a data set, as far as it says (Table II), as a sentence."""
    found = pd.read_csv(_FILES / "table2_settings.csv").set_index("dataset").loc[dataset]
    return (
        f"the paper's: {found['users']:,} users and {found['items']:,} items, N = {found['max_length']}, "
        f"supernet 4 x {found['hidden_size']}/{found['inner_size']} with intensities of "
        f"{', '.join(found['intensities'].split())} %, bidirectional linear attention trained on every "
        "prefix, no warm-up, lambda 0.1, batches of 1,024 prefixes in the search and 2,048 in retraining, "
        "on a GPU; its SASRec, FDSA and SASRecF have LinRec's settings, and its protocol is not named"
    )


def _of(dataset: str, file: str) -> pd.DataFrame:
    table = pd.read_csv(_FILES / file)
    return table[table["dataset"] == dataset].drop(columns="dataset").set_index("method")


def beside_paper(
    contest: Contest, labels: Mapping[str, str], dataset: str, *, differs: Sequence[str]
) -> list[Grid]:
    """Ours and the paper's figures of the methods that both have, as `ours / paper`.

    Args:
        contest: what was found.
        labels: method -> what it is called, as the paper calls it.
        dataset: as the paper calls it.
        differs: sentences on what differs in ours.
    """
    summary = contest.summary().set_index("method")
    methods = [name for name in summary.index if labels[name] in paper_accuracy(dataset).index]
    protocol_note = (
        f"the paper names no protocol; its figures fit {PROTOCOL} (100 negatives by popularity), so ours are "
        "under it"
    )
    accuracy, costs, named = paper_accuracy(dataset), paper_costs(dataset), contest.named(labels)
    columns = {
        f"{split} {name.partition('_')[0]}": (f"{split}/{PROTOCOL}/{name}", _paper_column(split, name))
        for split in SPLITS
        for name in ACCURACIES
    }
    shown = {title: names for title, names in columns.items() if names[0] in summary}
    rows = [
        (
            named[method],
            tuple(
                Cell(f"{summary[ours][method]:.4f} / {accuracy[theirs][labels[method]]:.4f}")
                for ours, theirs in shown.values()
            ),
        )
        for method in methods
    ]
    found = []
    if shown:
        found.append(
            Grid(
                f"beside the paper's Table III ({dataset}), ours / paper",
                tuple(shown),
                tuple(rows),
                (protocol_note, *differs),
            )
        )
    if "inference_s" in summary:
        rows = [
            (
                named[method],
                (
                    Cell(
                        f"{_number(summary, method, 'inference_s')} / "
                        f"{_paper(costs, labels, method, 'inference_s'):g}"
                    ),
                    Cell(
                        f"{_number(summary, method, 'train_peak_memory_mib', _GIB_PER_MIB)} / "
                        f"{_paper(costs, labels, method, 'gpu_memory_gb'):g}"
                    ),
                ),
            )
            for method in methods
        ]
        found.append(
            Grid(
                f"beside the paper's Table IV ({dataset}), ours / paper",
                ("all users s", "training memory GiB"),
                tuple(rows),
                (
                    "the paper's times and memory are of its GPU; what it counts as inference, and in which "
                    "stage it took memory, it does not say",
                    *differs,
                ),
            )
        )
    return found


def gates_beside_paper(
    contest: Contest, methods: Mapping[str, int], *, differs: Sequence[str]
) -> Grid | None:
    """Ours and the paper's Table V, validation figures, as `ours / paper`.

    Args:
        contest: what was found.
        methods: method -> layers of its gates.
        differs: sentences on what differs in ours.
    """
    summary, paper = contest.summary().set_index("method"), paper_gates()
    columns = {name: f"valid/{PROTOCOL}/{name}" for name in ACCURACIES}
    if any(name not in summary for name in columns.values()):
        return None
    named = contest.named(
        {method: f"gates of {counted(layers, 'layer')}" for method, layers in methods.items()}
    )
    rows = [
        (
            named[method],
            tuple(
                Cell(f"{summary[ours][method]:.4f} / {paper[_paper_column('valid', name)][layers]:.4f}")
                for name, ours in columns.items()
            ),
        )
        for method, layers in methods.items()
        if method in summary.index
    ]
    return Grid(
        "beside the paper's Table V (ML-1M, validation), ours / paper",
        tuple(f"valid {name.partition('_')[0]}" for name in ACCURACIES),
        tuple(rows),
        (f"ours under {PROTOCOL}, which the paper's figures fit", *differs),
    )


def _paper_column(split: str, name: str) -> str:
    """`test_ndcg10` of `test` and `ndcg_at_10`."""
    return f"{split}_{name.replace('_at_', '')}"


def _number(summary: pd.DataFrame, method: str, name: str, factor: float = 1) -> str:
    value = float(summary[name][method])
    return "-" if math.isnan(value) else f"{value * factor:.2f}"


def _paper(costs: pd.DataFrame, labels: Mapping[str, str], method: str, name: str) -> float:
    return float(costs[name][labels[method]])
