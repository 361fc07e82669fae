"""What a sweep says at its end: counts, the table of trials, where everything lies."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from sweeps.results import FailedTrial
from sweeps.rungs import Verdict


def counts_text(frame: pd.DataFrame, *, num_warmups: int, num_retrainings: int) -> str:
    """How much was shared, such as `6 lambdas, 4 architectures (4 retrainings shared by 6 trials)`."""
    return (
        f"{counted(frame['tradeoff'].nunique(), 'lambda')}, "
        f"{counted(frame['architecture_id'].nunique(), 'architecture')} "
        f"({counted(num_warmups, 'warm-up')} and {counted(num_retrainings, 'retraining')} shared by "
        f"{counted(len(frame), 'trial')})"
    )


def stopped_text(verdicts: Sequence[Verdict], frame: pd.DataFrame, *, num_trials: int) -> list[str]:
    """How many trials were stopped early and when, and whose means are over the other seeds alone.

    Args:
        verdicts: one for each trial that was stopped.
        frame: what `results_frame` returned, of those that finished.
        num_trials: all trials.
    """
    if not verdicts:
        return []
    epochs = Counter(verdict.reached.epoch for verdict in verdicts)
    after = ", ".join(f"{number} after epoch {epoch}" for epoch, number in sorted(epochs.items()))
    lines = [f"{len(verdicts)} of {counted(num_trials, 'trial')} stopped early by --halve-after: {after}"]
    finished = frame.groupby("architecture_id")["seed"].unique()
    stopped: dict[str, set[int]] = {}
    for verdict in verdicts:
        stopped.setdefault(verdict.reached.architecture, set()).add(verdict.reached.seed)
    for architecture, seeds in sorted(stopped.items()):
        if architecture in finished.index:
            kept = set(finished[architecture])
            lines.append(
                f"{architecture}: figures are of {len(kept)} of its {len(kept | seeds)} seeds; the others "
                "were stopped, so they flatter it"
            )
    return lines


def counted(number: int, noun: str) -> str:
    """A count as people say it.

    >>> counted(1, "layer"), counted(2, "layer")
    ('1 layer', '2 layers')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


_BESIDES = {"num_heads": "{} heads", "attention": "{}", "key_norm": "{} norm", "gate_layers": "g{}"}
"""What networks of one size may differ in -> how the tables tell them apart."""


def _network(row: Mapping[Any, Any], table: pd.DataFrame) -> str:
    """Layers x hidden/inner size, and what else is not the same in all rows of the table."""
    size = f"{row['num_layers']} x {row['hidden_size']}/{row['inner_size']}"
    differing = [
        text.format(row[name])
        for name, text in _BESIDES.items()
        if name in table and table[name].nunique() > 1
    ]
    return " ".join([size, *differing])


def results_table(frame: pd.DataFrame, failed: Sequence[FailedTrial], *, accuracy: str) -> Table:
    """All trials by lambda, those on the Pareto front marked with a star; fits 80 columns.

    Args:
        frame: what `results_frame` returned.
        failed: trials without a result.
        accuracy: the validation metric that chooses.
    """
    test = accuracy.replace("valid/", "test/", 1)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in (
        "",
        "lambda",
        "seed",
        "network",
        "valid",
        "test",
        "MFLOPs",
        "ms",
        "MiB",
        "search",
        "retrain",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row in frame.sort_values(["tradeoff", "seed"]).to_dict("records"):
        table.add_row(
            "*" if row["pareto"] else "",
            f"{row['tradeoff']:g}",
            str(row["seed"]),
            _network(row, frame),
            f"{row[accuracy]:.4f}",
            f"{row[test]:.4f}",
            f"{row['flops'] / 1e6:.2f}",
            _number(row, "latency_ms_p50", 2),
            _number(row, "peak_memory_mib", 1),
            _number(row, "search_s", 0),
            _number(row, "retrain_s", 0),
            style="bold" if row["pareto"] else None,
        )
    for trial in failed:
        mark = "!" if trial.status == "failed" else ""
        table.add_row(mark, f"{trial.tradeoff:g}", str(trial.seed), trial.status)
    return table


def configurations_table(table: pd.DataFrame, *, accuracy: str) -> Table:
    """One row for each architecture, with the interval of its accuracy; fits 80 columns.

    Args:
        table: what `configurations_frame` returned.
        accuracy: the validation metric that chooses.
    """
    test = accuracy.replace("valid/", "test/", 1)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("", "network", "seeds", "valid", "95 % interval", "test", "MFLOPs", "ms"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in table.to_dict("records"):
        low, high = row[f"{accuracy}_low"], row[f"{accuracy}_high"]
        shown.add_row(
            ("*" if row["pareto_decided"] else "*?") if row["pareto"] else "",
            _network(row, table),
            str(row["num_seeds"]),
            f"{row[accuracy]:.4f}",
            "-" if low != low else f"{low:.4f} to {high:.4f}",
            _number(row, test, 4),
            f"{row['flops'] / 1e6:.2f}",
            _number(row, "latency_ms_p50", 2),
            style="bold" if row["pareto"] else None,
        )
    return shown


def configurations_legend(table: pd.DataFrame) -> str:
    """What the columns of `configurations_table` say."""
    over = {"seeds": "over seeds (Student)", "users": "over users (bootstrap) where there is one seed"}
    methods = [over[method] for method in sorted(set(table["interval_over"]) - {"none"})]
    legend = "means over seeds, one row for each architecture"
    if methods:
        legend += f"; intervals {' and '.join(methods)}"
    if (table["pareto"] & ~table["pareto_decided"]).any():
        legend += (
            "\n*?: on the front by its mean alone; the data do not tell it apart from its cheaper neighbour "
            "there"
        )
    return legend


def table_legend(*, accuracy: str, threads: int) -> str:
    """What the columns of `results_table` say; latency was measured with `threads` CPU threads."""
    return (
        "*: on the Pareto front of validation accuracy and FLOPs; network: layers x hidden/inner size, then "
        "what else differs (g: gate layers)\n"
        f"valid, test: {_spelled(accuracy)} (validation figures were used by the search)\n"
        f"ms: p50 latency of one request, {counted(threads, 'thread')}; MiB: peak memory of serving; "
        "search, retrain: s"
    )


def _spelled(metric: str) -> str:
    """`NDCG@10 unseen` of `valid/unseen/ndcg_at_10`."""
    _, protocol, name = metric.split("/")
    kind, _, cutoff = name.partition("_at_")
    return f"{kind.upper()}@{cutoff} {protocol}"


def _number(row: Mapping[Hashable, object], name: str, digits: int) -> str:
    value = row.get(name)
    return "-" if not isinstance(value, float) or value != value else f"{value:.{digits}f}"
