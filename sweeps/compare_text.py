"""The tables of a comparison as people read them: in a terminal, as Markdown and as LaTeX."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from sweeps.compare_tables import ACCURACIES, SPLITS, Contest, differences, on_front
from sweeps.coverage import COVERAGE, POPULAR
from sweeps.summary import counted

BETTER, OTHER = "*", "†"
"""Mark of the reference where it is better than every other method of the table, all of them judged; mark of
a method that the data tell apart from the reference."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of a table."""

    text: str
    best: bool = False
    """Whether it is the best of its column."""
    mark: str = ""
    """What its difference from the others is known to be, see `BETTER` and `OTHER`."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table before it is written in some language."""

    title: str
    columns: tuple[str, ...]
    """Titles of all columns but the first, which names the method."""
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = field(default=())
    """Sentences below the table."""


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    metric: str
    factor: float
    """From the metric's unit to that of the title."""
    digits: int
    best: int
    """1: the highest is the best; -1: the lowest; 0: no value is better than another."""
    zero_is_none: bool = False
    """Whether 0 says that there is no such thing."""


_MEASURED = (
    _Column("all users s", "inference_s", 1, 2, -1),
    _Column("p50 ms", "latency_ms_p50", 1, 2, -1),
    _Column("p95 ms", "latency_ms_p95", 1, 2, -1),
    _Column("served p50 ms", "served_ms_p50", 1, 2, -1),
    _Column("served p95 ms", "served_ms_p95", 1, 2, -1),
    _Column("update ms", "update_ms_p50", 1, 2, 0, zero_is_none=True),
    _Column("serving MiB", "peak_memory_mib", 1, 1, -1),
    _Column("training MiB", "train_peak_memory_mib", 1, 1, -1),
)

_COUNTED = (
    _Column("MFLOPs", "flops", 1e-6, 2, -1),
    _Column("parameters", "params", 1, 0, -1),
    _Column("search s", "choosing_s", 1, 0, 0),
    _Column("total s", "total_s", 1, 0, 0),
    _Column("tried", "architectures_tried", 1, 1, 0),
)

_FRONTS = (_COUNTED[0], _MEASURED[0], _MEASURED[1], _MEASURED[3])
"""Costs whose fronts with accuracy are named."""

_REACH = (
    _Column("coverage", COVERAGE, 100, 1, 0),
    _Column("popular", POPULAR, 100, 1, 0),
)


def grids(
    contest: Contest,
    labels: Mapping[str, str],
    reference: str,
    *,
    methods: Sequence[str] | None = None,
    title: str = "",
    popular_targets: float | None = None,
) -> list[Grid]:
    """A grid of accuracies for each protocol, one of costs, one of what is recommended.

    Args:
        contest: what was found.
        labels: method -> what people call it.
        reference: the method that others are compared with.
        methods: some of the methods, in the order of the rows; left out: all.
        title: what the titles begin with.
        popular_targets: share of popular items among the test targets.
    """
    summary = contest.summary().set_index("method")
    summary = summary.loc[[name for name in methods or contest.methods if name in summary.index]]
    found = differences(contest, reference, list(summary.index))
    labels = contest.named(labels)
    # What is short of a seed has means over others, and is neither the best nor on a front.
    whole = summary.loc[[contest.complete(str(name)) for name in summary.index]]

    def grid(title: str, columns: Sequence[_Column], table: str, notes: Sequence[str]) -> Grid:
        return _grid(title, columns, summary, whole, found[found["table"] == table], labels, notes)

    begin = f"{title}: " if title else ""
    seeds = f"means of {counted(contest.num_seeds, 'seed')}"
    seeds += ", ± their standard deviation" if contest.num_seeds > 1 else "; a deviation needs two or more"
    made = []
    for protocol in contest.protocols():
        columns = [
            _Column(f"{split} {_spelled(name)}", f"{split}/{protocol}/{name}", 1, 4, 1)
            for split in SPLITS
            for name in ACCURACIES
        ]
        notes = [
            f"{seeds}; bold: the best of a column",
            *_marks(found, protocol, labels, reference, "users", list(summary.index)),
        ]
        made.append(grid(f"{begin}accuracy ({protocol})", columns, protocol, notes))
    notes = [
        "all users: time to answer all test users in batches; p50, p95: one request by torch; served: the "
        "same as it is served, on a CPU by ONNX Runtime, from the user's state where the attention has one; "
        "update: one more item into that state; serving, training: peak memory of the network that is "
        "compared, without what a search took; means of "
        + counted(contest.num_measurements, "measurement")
        + (", ± their standard deviation" if contest.num_measurements > 1 else ""),
        *_marks(
            found,
            "costs",
            labels,
            reference,
            f"{contest.num_measurements} repeated measurements",
            list(summary.index),
        ),
    ]
    if contest.num_measurements > 1:
        notes.append("not tested: p95 and update")
    if contest.num_measurements:
        made.append(grid(f"{begin}measured costs", _MEASURED, "costs", notes))
    notes = [
        "MFLOPs: one forward pass of a full history, of linear attention by its closed form; search: with "
        "warm-up; total: search and training of one seed"
    ]
    if "architectures_tried" in summary:
        notes.append(
            "tried: architectures that a search of this kind has retrained, the best of which is shown"
        )
    notes += _fronts(contest, whole, labels)
    made.append(grid(f"{begin}size and training", _COUNTED, "", notes))
    if COVERAGE in summary:
        notes = [
            "coverage: share of the catalogue among the top 10 of all test users, in %; popular: share of "
            "these recommendations that are of the tenth of the items with the most training interactions, "
            "in %"
        ]
        if popular_targets is not None:
            notes.append(f"of the test targets themselves {100 * popular_targets:.1f} % are popular")
        made.append(grid(f"{begin}what is recommended", _REACH, "", notes))
    return made


def _fronts(contest: Contest, summary: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """Which methods are on the fronts of test accuracy and each cost, under the protocol that chooses."""
    protocols = contest.protocols()
    if not protocols or len(summary) < 2:
        return []
    protocol = "unseen" if "unseen" in protocols else protocols[0]
    accuracy = f"test/{protocol}/ndcg_at_10"
    found = []
    for column in _FRONTS:
        if column.metric in summary:
            names = ", ".join(labels[name] for name in on_front(summary, accuracy, column.metric))
            found.append(
                f"on the front of test {_spelled('ndcg_at_10')} ({protocol}) and {column.title}: {names}"
            )
    return found


def _spelled(name: str) -> str:
    """`NDCG@10` of `ndcg_at_10`."""
    kind, _, cutoff = name.partition("_at_")
    return f"{'Recall' if kind == 'recall' else kind.upper()}@{cutoff}"


def _marks(
    found: pd.DataFrame,
    table: str,
    labels: Mapping[str, str],
    reference: str,
    over: str,
    methods: Sequence[str],
) -> list[str]:
    own = found[found["table"] == table]
    if own.empty or own["p_holm"].isna().all():
        return []
    judged = own.groupby("method")["metric"].nunique() == own["metric"].nunique()
    unjudged = [labels[name] for name in methods if name != reference and not judged.get(name, False)]
    short = "measurements beside those" if table == "costs" else "the same seeds and users as those"
    missing = f"not judged, for want of {short} of {labels[reference]}: {', '.join(unjudged)}"
    return [
        f"{OTHER}: told apart from {labels[reference]} at 5 %, paired over {over}, Holm-corrected for the "
        f"{len(own)} comparisons of the table; {BETTER}: {labels[reference]} is better than every other, "
        "each told apart (those that ended with the same network do not count)",
        *([missing] if unjudged else []),
    ]


def _grid(
    title: str,
    columns: Sequence[_Column],
    summary: pd.DataFrame,
    whole: pd.DataFrame,
    own: pd.DataFrame,
    labels: Mapping[str, str],
    notes: Sequence[str],
) -> Grid:
    """A row per method of `summary`; the best are of `whole`, and `own` are the differences of this table."""
    shown = [column for column in columns if column.metric in summary]
    rows = []
    for method, values in summary.iterrows():
        cells = []
        for column in shown:
            known = whole[column.metric].dropna()
            value = float(values[column.metric])
            if math.isnan(value) or (value == 0 and column.zero_is_none):
                cells.append(Cell("-"))
                continue
            best = column.best != 0 and len(known) > 1 and method in known.index
            best = best and value == (known * column.best).max() * column.best
            mark = _mark(own, column, str(method), len(summary))
            cells.append(Cell(_text(values, column), bool(best), mark))
        rows.append((labels[str(method)], tuple(cells)))
    return Grid(title, tuple(column.title for column in shown), tuple(rows), tuple(notes))


def _text(values: "pd.Series[float]", column: _Column) -> str:
    text = f"{column.factor * float(values[column.metric]):,.{column.digits}f}"
    deviation = values.get(f"{column.metric}_sd")
    if deviation is None or math.isnan(deviation) or deviation == 0:  # of what is exact
        return text
    return f"{text} ± {column.factor * deviation:,.{column.digits}f}"


def _mark(own: pd.DataFrame, column: _Column, method: str, num_methods: int) -> str:
    rows = own[own["metric"] == column.metric]
    if rows.empty:
        return ""
    if method == rows["reference"].iloc[0]:
        if len(rows) < num_methods - 1:  # of one that was not judged nobody knows
            return ""
        others = rows[(rows["difference"] != 0) | (rows["low"] != rows["high"])]
        worse = others["told_apart"] & (others["difference"] * column.best < 0)
        return BETTER if len(worse) and bool(worse.all()) else ""
    told = rows.loc[rows["method"] == method, "told_apart"]
    return OTHER if bool(told.any()) else ""


def terminal_table(grid: Grid) -> Table:
    """For rich's console."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=None)
    table.add_column("method", no_wrap=True)
    for column in grid.columns:
        table.add_column(column, justify="right")
    for name, cells in grid.rows:
        texts = [Text(cell.text + cell.mark, style="bold" if cell.best else "") for cell in cells]
        table.add_row(Text(name), *texts)
    return table


def markdown(grid: Grid, level: int = 3) -> str:
    """A heading, the table, and the notes below it."""
    lines = [f"{'#' * level} {grid.title}", ""]
    lines.append("| " + " | ".join(["method", *grid.columns]) + " |")
    lines.append("|---" + "|---:" * len(grid.columns) + "|")
    for name, cells in grid.rows:
        texts = [
            f"**{cell.text}**{_escaped(cell.mark)}" if cell.best else cell.text + _escaped(cell.mark)
            for cell in cells
        ]
        lines.append("| " + " | ".join([name.replace("|", "\\|"), *texts]) + " |")
    lines += ["", *(f"{note[:1].upper()}{note[1:]}.  ".replace("*", "\\*") for note in grid.notes)]
    return "\n".join(lines).rstrip() + "\n"


def _escaped(mark: str) -> str:
    return mark.replace("*", "\\*")


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "†": r"$^{\dagger}$",
}


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def latex(grid: Grid) -> str:
    """A `table` that needs no package; its notes are the caption."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_text('. '.join([grid.title, *grid.notes]))}.}}",
        rf"\begin{{tabular}}{{l{'r' * len(grid.columns)}}}",
        r"\hline",
        " & ".join(_latex_text(text) for text in ("method", *grid.columns)) + r" \\",
        r"\hline",
    ]
    for name, cells in grid.rows:
        texts = [_latex_text(name)]
        for cell in cells:
            text = _latex_text(cell.text)
            mark = r"$^{*}$" if cell.mark == BETTER else _latex_text(cell.mark)
            texts.append((rf"\textbf{{{text}}}" if cell.best else text) + mark)
        lines.append(" & ".join(texts) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", r"\end{table}"]) + "\n"
