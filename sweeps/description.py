"""The text on top of a sweep's run in MLflow: what was tried and which networks came out of it."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from sweeps.confidence import Confidence, Standing
from sweeps.intervals import LEVEL
from sweeps.panels import ChartLabels, describe_counts, seeds_disagree, tradeoff_labels
from sweeps.pareto import configurations

MAX_LENGTH = 8000
"""Characters that MLflow keeps of a description."""


def sweep_description(
    frame: pd.DataFrame,
    labels: ChartLabels,
    confidence: Confidence | None = None,
    *,
    links: Mapping[str, str] = MappingProxyType({}),
    remarks: Sequence[str] = (),
) -> str:
    """A sentence and a Markdown table of the derived architectures, cheapest first.

    Figures are means over seeds. Rows that no longer fit are left out, those off the fronts first, and the
    text says so.

    Args:
        frame: what `results_frame` returned.
        labels: what is said about the runs.
        confidence: of the same trials; left out, it is made from seeds alone.
        links: what a view of the runs shows -> its address.
        remarks: further sentences, each a paragraph above the table.
    """
    confidence = confidence or Confidence(frame, accuracy=labels.accuracy)
    test = labels.accuracy.replace("valid/", "test/")
    columns = {
        labels.accuracy: (labels.accuracy_title, "{:.4f}"),
        test: (f"test NDCG@10 ({labels.accuracy.split('/')[1]})", "{:.4f}"),
        "flops": ("FLOPs", "{:,.0f}"),
        "params": ("parameters", "{:,.0f}"),
        "latency_ms_p50": ("latency p50, ms", "{:.2f}"),
        "peak_memory_mib": ("peak memory, MiB", "{:.1f}"),
    }
    present = {name: column for name, column in columns.items() if name in frame}
    means = configurations(frame, list(present), accuracy=labels.accuracy)
    fronts = frame.groupby("architecture_id")[["pareto", "pareto_latency"]].any()
    tradeoffs = tradeoff_labels(frame, counted=True)
    means = means.sort_values(["flops", labels.accuracy])
    standings = {flag: confidence.standings(cost) for flag, (_, cost) in _FRONTS.items() if cost in frame}
    rows = {}
    for architecture_id, row in means.iterrows():
        name = str(architecture_id)
        cells = [
            "-" if pd.isna(row[metric]) else form.format(row[metric]) for metric, (_, form) in present.items()
        ]
        spread = confidence.spread(name)
        cells.insert(1, "-" if spread.method == "none" else f"{spread.low:.4f} to {spread.high:.4f}")
        on = [
            title if standings[flag][name].decided else f"{title} (?)"
            for flag, (title, _) in _FRONTS.items()
            if fronts.loc[name, flag]
        ]
        rows[name] = _row([tradeoffs[name].removeprefix("λ "), f"`{name}`", *cells, ", ".join(on)])
    titles = ["lambda", "architecture", *(title for title, _ in present.values()), "on the front of"]
    titles.insert(3, f"its interval at {LEVEL:.0%}")
    head = [
        f"**{labels.dataset}: {describe_counts(frame)}.** "
        f"{int(fronts['pareto'].sum())} of them are on the front of validation accuracy against FLOPs.",
        "",
        *([_links(links), ""] if links else []),
        *(line for remark in remarks for line in (f"{remark}.", "")),
        _row(titles),
        _row(["---"] * len(titles)),
    ]
    # Below the table: MLflow folds a description after some lines.
    notes = _notes(frame, confidence, standings)
    droppable = [name for name in rows if not fronts.loc[name].any()]
    return _fitting(head, rows, ["", notes] if notes else [], last=droppable)


def _links(links: Mapping[str, str]) -> str:
    return "Runs: " + ", ".join(f"[{name}]({address})" for name, address in links.items()) + "."


def _notes(frame: pd.DataFrame, confidence: Confidence, standings: dict[str, dict[str, Standing]]) -> str:
    notes = []
    if frame["seed"].nunique() > 1:
        notes.append("Figures are means over seeds.")
        if seeds_disagree(frame):
            notes.append("A lambda with (k/n) led to the architecture in k of its n seeds.")
    methods = {confidence.spread(name).method for name in confidence} - {"none"}
    if methods:
        over = {"seeds": "over seeds (Student)", "users": "over users where there is one seed (bootstrap)"}
        notes.append(f"Intervals are {' and '.join(over[method] for method in sorted(methods))}.")
    if any(
        standing.on_front and not standing.decided
        for found in standings.values()
        for standing in found.values()
    ):
        notes.append("(?): the data do not tell it apart from its cheaper neighbour on that front.")
    return " ".join(notes)


_FRONTS = {"pareto": ("FLOPs", "flops"), "pareto_latency": ("latency", "latency_ms_p50")}


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _fitting(head: list[str], rows: dict[str, str], foot: list[str], *, last: list[str]) -> str:
    """The lines joined, with as many rows as fit; those named in `last` go first."""
    left_out = 0
    droppable = [*(name for name in rows if name not in last), *last]
    while True:
        note = ["", f"{left_out} more architectures are in results.parquet."] if left_out else []
        text = "\n".join([*head, *rows.values(), *note, *foot])
        if len(text) <= MAX_LENGTH or not rows:
            return text
        del rows[droppable.pop()]
        left_out += 1
