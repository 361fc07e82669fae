"""The picture of a sweep: accuracy against FLOPs and against latency, the fronts marked."""

import html
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter
from plotly.subplots import make_subplots

from easrec.files import write_atomically
from sweeps.confidence import Confidence
from sweeps.labels import place_labels
from sweeps.panels import (
    ChartLabels,
    Panel,
    describe_counts,
    interval_note,
    panel_of,
    seeds_disagree,
    tradeoff_labels,
)

__all__ = ["ChartLabels", "pareto_figure", "pareto_html", "pareto_png"]

_FRONT = "#0b6e99"
_BEATEN = "#8a8f98"
_INK = "#22262b"
_PALE = "#cfe3ea"
_NOT_TOLD_APART = "not told apart from its neighbour on the front"


def pareto_png(
    frame: pd.DataFrame, path: Path | str, labels: ChartLabels, confidence: Confidence | None = None
) -> None:
    """Draw accuracy against FLOPs and against latency, the fronts marked and labelled by lambda.

    Args:
        frame: what `results_frame` returned; latency may be missing.
        path: the png, written atomically.
        labels: what is said about the runs.
        confidence: of the same trials; left out, it is made from seeds alone.
    """
    confidence = confidence or Confidence(frame, accuracy=labels.accuracy)
    figure = Figure(figsize=(12, 6.2), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)  # without pyplot: nothing global, and any thread may draw
    left, right = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.075, right=0.98, top=0.84, bottom=0.185, wspace=0.06)
    panels = [panel_of(frame, cost, labels.accuracy, confidence) for cost in labels.costs]
    for axes, title, panel in zip((left, right), labels.costs.values(), panels, strict=True):
        _style(axes, title)
        if panel.means.empty:
            _say(axes, "not measured yet")
        _scatter(axes, panel)
    left.set_ylabel(labels.accuracy_title, color=_INK)
    left.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    right.margins(x=0.14)
    right.tick_params(labelleft=False)
    left.set_ylim(*_accuracy_limits(panels[0]))
    log_axis(left, panels[0].means["x"].tolist())
    for axes, panel in zip((left, right), panels, strict=True):
        _bars(axes, panel)
    lines = [_step_line(axes, panel) for axes, panel in zip((left, right), panels, strict=True)]
    for axes, panel, line in zip((left, right), panels, lines, strict=True):
        place_labels(
            axes,
            list(zip(panel.means["x"], panel.means["y"], strict=True)),
            panel.means["label"].tolist(),
            obstacles=list(zip(panel.seeds["x"], panel.seeds["y"], strict=True)),
            line=line,
            bold=panel.means["front"].tolist(),
            color=_INK,
        )
    title = f"Accuracy against cost on {labels.dataset}"
    figure.text(0.075, 0.93, title, fontsize=15, fontweight="bold", color=_INK, parse_math=False)
    figure.text(0.075, 0.875, _subtitle(frame, confidence), fontsize=10.5, color=_BEATEN)
    _legend(
        figure,
        several_seeds=any(len(panel.seeds) for panel in panels),
        undecided=not all(panel.means["decided"].all() for panel in panels if len(panel.means)),
    )
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


def _subtitle(frame: pd.DataFrame, confidence: Confidence) -> str:
    notes = [describe_counts(frame), interval_note(frame, confidence)]
    if seeds_disagree(frame):
        notes.append("a λ whose seeds derived different architectures stands at each")
    return "; ".join(note for note in notes if note)


def _accuracy_limits(panel: Panel) -> tuple[float, float]:
    """The range of the accuracy axis: all points, and of the bars what leaves the points to be seen."""
    points = [*panel.means["y"], *panel.seeds["y"]]
    low, high = min(points), max(points)
    height = max(high - low, 0.02 * abs(high), 1e-6)
    bars_low, bars_high = panel.means["low"].min(), panel.means["high"].max()
    if not pd.isna(bars_low):
        low = max(min(low, float(bars_low)), low - height)
        high = min(max(high, float(bars_high)), high + height)
    return low - 0.22 * height, high + 0.22 * height


def _style(axes: Axes, title: str) -> None:
    axes.set_xlabel(title, color=_INK, labelpad=8)
    axes.grid(color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors="#555b63", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c4c8ce")


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=_BEATEN, fontsize=11)
    axes.set_xticks([0.5], [" "])  # keeps the axis title level with its neighbour's


def _scatter(axes: Axes, panel: Panel) -> None:
    for front, color in ((False, _BEATEN), (True, _FRONT)):
        seeds = panel.seeds[panel.seeds["front"] == front] if len(panel.seeds) else panel.seeds
        if len(seeds):
            axes.scatter(seeds["x"], seeds["y"], s=22, color=color, alpha=0.4, lw=0, zorder=3)
        means = panel.means[panel.means["front"] == front]
        for _, mean in means.iterrows():
            fill = (color if front else "white") if mean["decided"] else _PALE
            axes.scatter(mean["x"], mean["y"], s=70, facecolor=fill, edgecolor=color, linewidth=1.6, zorder=5)


def _bars(axes: Axes, panel: Panel) -> None:
    """The interval of each accuracy; one that is far longer than the axis runs out of the panel."""
    limits = axes.get_ylim()
    for front, color in ((False, _BEATEN), (True, _FRONT)):
        own = panel.means[panel.means["front"] == front].dropna(subset=["low", "high"])
        axes.vlines(own["x"], own["low"], own["high"], color=color, lw=1.1, alpha=0.5, zorder=2.5)
    axes.set_ylim(limits)


def _step_line(axes: Axes, panel: Panel) -> list[tuple[float, float]]:
    """Draw the best accuracy that can be had at each cost, to the panel's right edge.

    Returns:
        The corners of the line.
    """
    front = panel.means[panel.means["front"]]
    if front.empty:
        return []
    limits, floor = axes.get_xlim(), axes.get_ylim()
    xs = [*front["x"], limits[1]]
    ys = [*front["y"], front["y"].iloc[-1]]
    axes.step(xs, ys, where="post", color=_FRONT, lw=1.6, alpha=0.55, zorder=2)
    axes.fill_between(xs, ys, floor[0], step="post", color=_FRONT, alpha=0.05, lw=0, zorder=1)
    axes.set(xlim=limits, ylim=floor)
    corners = [(xs[0], ys[0])]
    for x, y in zip(xs[1:], ys[1:], strict=True):
        corners += [(x, corners[-1][1]), (x, y)]
    return corners


def log_axis(axes: Axes, costs: list[float]) -> None:
    """Show costs by their ratios, with room on both sides."""
    axes.set_xscale("log")
    low, high = min(costs), max(costs)
    room = max((high / low) ** 0.16, 1.35)
    axes.set_xlim(low / room, high * room)
    # Labels at 1, 2 and 5 of each power of ten, as numbers that people say: 500 k, 2 M.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, *, several_seeds: bool, undecided: bool) -> None:
    entries = [
        Line2D([], [], color=_FRONT, marker="o", markersize=8, lw=1.6, label="Pareto front"),
        Line2D(
            [],
            [],
            color=_BEATEN,
            marker="o",
            markersize=8,
            lw=0,
            markerfacecolor="white",
            markeredgewidth=1.6,
            label="beaten by a network on the front",
        ),
    ]
    if undecided:
        entries.append(
            Line2D(
                [],
                [],
                color=_FRONT,
                marker="o",
                markersize=8,
                lw=0,
                markerfacecolor=_PALE,
                markeredgewidth=1.6,
                label=_NOT_TOLD_APART,
            )
        )
    if several_seeds:
        entries.append(
            Line2D(
                [],
                [],
                color=_BEATEN,
                marker="o",
                markersize=4,
                lw=0,
                alpha=0.5,
                label="one seed (large: mean over seeds)",
            )
        )
    figure.legend(
        handles=entries,
        loc="lower left",
        bbox_to_anchor=(0.068, 0.005),
        ncols=4,
        frameon=False,
        labelcolor=_INK,
        fontsize=9.5,
        columnspacing=1.6,
    )


def pareto_html(
    frame: pd.DataFrame, path: Path | str, labels: ChartLabels, confidence: Confidence | None = None
) -> None:
    """Write the same chart as one interactive page that needs no network; arguments as for `pareto_png`."""
    confidence = confidence or Confidence(frame, accuracy=labels.accuracy)
    page = pareto_figure(frame, labels, confidence).to_html(
        include_plotlyjs=True, full_html=True, default_height="92vh"
    )
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def pareto_figure(frame: pd.DataFrame, labels: ChartLabels, confidence: Confidence) -> go.Figure:
    """The chart of `pareto_png` for a page: hovering over a point shows its architecture and key metrics."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    texts = _hover_texts(frame, labels, confidence)
    for column, (cost, title) in enumerate(labels.costs.items(), start=1):
        panel = panel_of(frame, cost, labels.accuracy, confidence)
        for trace in _traces(panel, texts, first=column == 1, is_log=column == 1):
            figure.add_trace(trace, row=1, col=column)
        if column == 1:
            figure.update_yaxes(range=_accuracy_limits(panel))
        figure.update_xaxes(title_text=title, row=1, col=column)
        if panel.means.empty:
            where = {"xref": f"x{column} domain", "yref": "y domain", "x": 0.5, "y": 0.5}
            figure.add_annotation(text="not measured yet", showarrow=False, **where)
    figure.update_xaxes(type="log", dtick="D2", exponentformat="SI", row=1, col=1)
    figure.update_yaxes(title_text=labels.accuracy_title, row=1, col=1)
    title = f"<b>Accuracy against cost on {html.escape(labels.dataset)}</b>"
    title += f"<br><sub>{_subtitle(frame, confidence)}</sub>"
    figure.update_layout(
        title=title,
        template="plotly_white",
        font={"color": _INK},
        hoverlabel={"bgcolor": "white", "align": "left", "font": {"size": 12}},
        legend={"orientation": "h", "y": -0.16},
        margin={"t": 90},
    )
    return figure


def _traces(panel: Panel, texts: dict[str, str], *, first: bool, is_log: bool) -> list[go.Scatter]:
    """The step line, the single seeds and the means of one panel; the legend lists the first's."""
    front = panel.means[panel.means["front"]]
    traces = [
        go.Scatter(
            x=front["x"],
            y=front["y"],
            mode="lines",
            line={"shape": "hv", "color": _FRONT, "width": 2},
            opacity=0.6,
            hoverinfo="skip",
            showlegend=False,
            legendgroup="front",
        )
    ]
    if len(panel.seeds):
        colors = [_FRONT if flag else _BEATEN for flag in panel.seeds["front"]]
        traces.append(
            go.Scatter(
                x=panel.seeds["x"],
                y=panel.seeds["y"],
                mode="markers",
                opacity=0.4,
                marker={"size": 6, "color": colors},
                hoverinfo="skip",
                name="one seed",
                legendgroup="seeds",
                showlegend=first,
            )
        )
    sides = _label_sides(panel.means["x"], is_log=is_log)
    for flag, color, name in (
        (True, _FRONT, "Pareto front"),
        (False, _BEATEN, "beaten by a network on the front"),
    ):
        means = panel.means[panel.means["front"] == flag]
        fill = color if flag else "white"
        bars = {
            "type": "data",
            "symmetric": False,
            "array": means["high"] - means["y"],
            "arrayminus": means["y"] - means["low"],
            "color": color,
            "thickness": 1.2,
            "width": 0,
        }
        traces.append(
            go.Scatter(
                x=means["x"],
                y=means["y"],
                mode="markers+text",
                name=name,
                showlegend=first,
                legendgroup="front" if flag else "beaten",
                text=means["label"],
                textposition=[sides[key] for key in means.index],
                cliponaxis=False,
                hovertext=[texts[str(key)] for key in means.index],
                hoverinfo="text",
                error_y=bars if means["low"].notna().any() else None,
                marker={
                    "size": 12,
                    "color": [fill if decided else _PALE for decided in means["decided"]],
                    "line": {"color": color, "width": 2},
                },
            )
        )
    return traces


def _label_sides(costs: pd.Series, *, is_log: bool) -> pd.Series:
    """Where plotly writes the label of each point: inwards near the edges, or it would be cut off there.

    >>> _label_sides(pd.Series([1.0, 10.0, 100.0]), is_log=True).tolist()
    ['top right', 'top center', 'top left']
    """
    places = np.log10(costs) if is_log else costs
    span = places.max() - places.min()
    # A point alone stands in the middle.
    shares = (places - places.min()) / span if span > 0 else 0.0 * places + 0.5
    return shares.map(lambda share: f"top {'right' if share < 0.3 else 'left' if share > 0.7 else 'center'}")


def _hover_texts(frame: pd.DataFrame, labels: ChartLabels, confidence: Confidence) -> dict[str, str]:
    """What hovering over an architecture says: its id, its tradeoffs, means, their spread, its neighbours."""
    titles = {
        labels.accuracy: labels.accuracy_title,
        "test/unseen/ndcg_at_10": "test NDCG@10 (unseen)",
        "test/full/ndcg_at_10": "test NDCG@10 (full)",
        "test/uni100/ndcg_at_10": "test NDCG@10 (uni100)",
        "test/pop100/ndcg_at_10": "test NDCG@10 (pop100)",
        "test/unseen/recall_at_10": "test Recall@10 (unseen)",
        "flops": "FLOPs of one forward pass",
        "flops_total": "FLOPs with scoring all items",
        "params": "parameters",
        "weights_mib": "weights, MiB",
        "latency_ms_p50": "latency p50, ms",
        "latency_ms_p95": "latency p95, ms",
        "served_ms_p50": "latency p50 as served, ms",
        "update_ms_p50": "update of a state p50, ms",
        "inference_s": "all test users, s",
        "peak_memory_mib": "peak memory, MiB",
        "train_peak_memory_mib": "peak memory in training, MiB",
    }
    tradeoffs = tradeoff_labels(frame, counted=True)
    standings = {cost: confidence.standings(cost) for cost in labels.costs if cost in frame}
    texts = {}
    for name, own in frame.groupby("architecture_id"):
        # Trials of a seed that share a retraining share all its figures, and count once.
        distinct = own.drop_duplicates(["seed", labels.accuracy])
        lines = [f"<b>{html.escape(str(name))}</b>", tradeoffs[str(name)]]
        for metric, title in titles.items():
            values = distinct[metric].dropna() if metric in distinct else pd.Series(dtype=float)
            if len(values):
                spread = f" ± {values.std():.2g}" if values.nunique() > 1 else ""
                lines.append(f"{title}: {_readable(float(values.mean()))}{spread}")
        if len(distinct) > 1:
            lines.append(f"mean ± standard deviation of {len(distinct)} retrainings")
        rivals = [standing[str(name)] for standing in standings.values() if str(name) in standing]
        for rival in dict.fromkeys(str(standing.rival) for standing in rivals if not standing.decided):
            lines.append(f"the data do not tell it apart from {html.escape(rival)}")
        texts[str(name)] = "<br>".join(lines)
    return texts


def _readable(value: float) -> str:
    """A number as people write it: `1,234,567`, `12.3`, `0.0987`."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.4f}"
