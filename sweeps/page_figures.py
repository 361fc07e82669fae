"""The charts of a report beside the fronts: three objectives, lambda, hypervolume, importances."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sweeps.budget import FLOPS
from sweeps.choice import LATENCY
from sweeps.findings import Findings, LambdaRow
from sweeps.importance import Importances

INK = "#22262b"
FRONT = "#0b6e99"
BEATEN = "#8a8f98"
ACCENT = "#d1495b"
_LINES = {"accuracy and FLOPs": FRONT, "accuracy and latency": ACCENT, "accuracy, FLOPs and latency": BEATEN}


def styled(figure: go.Figure, *, height: int) -> go.Figure:
    """A chart in the clothes of the page."""
    return figure.update_layout(
        template="plotly_white",
        font={"color": INK, "size": 13},
        hoverlabel={"bgcolor": "white", "align": "left"},
        legend={"orientation": "h", "y": -0.2},
        margin={"l": 70, "r": 30, "t": 30, "b": 60},
        height=height,
    )


def three_objectives(findings: Findings) -> go.Figure:
    """Accuracy, FLOPs and latency of each configuration that has all three."""
    accuracy = findings.recorded.accuracy
    points = findings.table.dropna(subset=[accuracy, FLOPS, LATENCY])
    on_front = points.index.isin(findings.fronts["accuracy, FLOPs and latency"])
    figure = go.Figure()
    for flag, color, name in ((True, FRONT, "front of all three"), (False, BEATEN, "beaten")):
        own = points[on_front == flag]
        figure.add_trace(
            go.Scatter3d(
                x=own[FLOPS],
                y=own[LATENCY],
                z=own[accuracy],
                mode="markers",
                name=name,
                marker={"size": 6, "color": color, "opacity": 1.0 if flag else 0.45},
                hovertext=[findings.names[str(key)] for key in own.index],
                hovertemplate="%{hovertext}<br>FLOPs %{x:.3s}<br>%{y:.3f} ms<br>accuracy %{z:.4f}"
                "<extra></extra>",
            )
        )
    figure.update_scenes(
        xaxis={"title": {"text": "FLOPs"}, "type": "log", "dtick": "D2", "exponentformat": "SI"},
        yaxis={"title": {"text": "latency, ms"}},
        zaxis={"title": {"text": "accuracy"}},
        camera={"eye": {"x": 1.6, "y": -1.6, "z": 0.8}},
    )
    return styled(figure, height=520)


def what_lambda_does(findings: Findings) -> go.Figure:
    """Accuracy and FLOPs against lambda: over a grid the means with intervals, else every trial."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    traces = _of_grid(findings.lambdas) if findings.lambdas else _of_trials(findings)
    for row, trace in traces:
        figure.add_trace(trace, row=row, col=1)
    figure.update_xaxes(title_text="λ, the weight of the cost in the search", row=2, col=1)
    if findings.lambdas:
        # A grid may have 0, which no log axis does: its values stand side by side.
        figure.update_xaxes(type="category")
    elif (findings.recorded.frame["tradeoff"] > 0).all():
        figure.update_xaxes(type="log")
    figure.update_yaxes(title_text="accuracy", row=1, col=1)
    figure.update_yaxes(title_text="FLOPs", rangemode="tozero", exponentformat="SI", row=2, col=1)
    return styled(figure, height=520).update_layout(showlegend=bool(findings.lambdas))


def _of_grid(lambdas: list[LambdaRow]) -> list[tuple[int, go.Scatter]]:
    names = [f"{row.tradeoff:g}" for row in lambdas]
    accuracies = [row.spread.mean for row in lambdas]
    hovers = [
        "<br>".join(
            f"{name}: {number} of {sum(row.architectures.values())} trials"
            for name, number in row.architectures.items()
        )
        for row in lambdas
    ]
    bars = _bars(
        [row.spread.high - row.spread.mean for row in lambdas],
        [row.spread.mean - row.spread.low for row in lambdas],
        FRONT,
    )
    return [
        (
            1,
            go.Scatter(
                x=names,
                y=accuracies,
                error_y=bars if any(row.spread.method != "none" for row in lambdas) else None,
                mode="lines+markers",
                name="accuracy, mean and 95 % interval",
                marker={"size": 9, "color": FRONT},
                line={"color": FRONT},
                hovertext=hovers,
                hovertemplate="λ %{x}: %{y:.4f}<br>%{hovertext}<extra></extra>",
            ),
        ),
        (
            2,
            go.Scatter(
                x=names,
                y=[row.flops for row in lambdas],
                error_y=_bars(
                    [row.flops_high - row.flops for row in lambdas],
                    [row.flops - row.flops_low for row in lambdas],
                    ACCENT,
                ),
                mode="lines+markers",
                name="FLOPs, mean and range over seeds",
                marker={"size": 9, "color": ACCENT},
                line={"color": ACCENT},
                hovertext=hovers,
                hovertemplate="λ %{x}: %{y:.3s} FLOPs<br>%{hovertext}<extra></extra>",
            ),
        ),
    ]


def _of_trials(findings: Findings) -> list[tuple[int, go.Scatter]]:
    frame = findings.recorded.frame.sort_values("tradeoff")
    return [
        (
            row,
            go.Scatter(
                x=frame["tradeoff"],
                y=frame[metric],
                mode="markers",
                name=metric,
                marker={"size": 8, "color": color, "opacity": 0.7},
                hovertext=frame["architecture_id"],
                hovertemplate="λ %{x:.3g}: %{y:.4s}<br>%{hovertext}<extra></extra>",
            ),
        )
        for row, metric, color in ((1, findings.recorded.accuracy, FRONT), (2, FLOPS, ACCENT))
    ]


def _bars(above: list[float], below: list[float], color: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "color": color,
        "thickness": 1.3,
    }


def hypervolume_growth(findings: Findings) -> go.Figure:
    """The share of the final hypervolume as trials ended."""
    figure = go.Figure()
    for name, shares in findings.growth.items():
        if len(shares):
            figure.add_trace(
                go.Scatter(
                    x=np.arange(1, len(shares) + 1),
                    y=shares,
                    mode="lines+markers",
                    name=name,
                    line={"shape": "hv", "color": _LINES[name]},
                    marker={"size": 5},
                    hovertemplate="after %{x} trials: %{y:.1%}<extra>" + name + "</extra>",
                )
            )
    figure.update_xaxes(title_text="trials finished")
    figure.update_yaxes(title_text="share of the final hypervolume", tickformat=".0%", rangemode="tozero")
    return styled(figure, height=380)


def importance_bars(found: dict[str, Importances]) -> go.Figure:
    """For each result the shares of the settings, and what chance gives."""
    told = {result: importances.found for result, importances in found.items() if importances.found}
    figure = make_subplots(
        rows=1, cols=max(1, len(told)), subplot_titles=[f"of {result}" for result in told], shared_yaxes=True
    )
    for column, (_, own) in enumerate(told.items(), start=1):
        rows = list(reversed(own))  # plotly draws the first at the bottom
        figure.add_trace(
            go.Bar(
                x=[row.share for row in rows],
                y=[row.name for row in rows],
                orientation="h",
                marker={"color": [FRONT if row.above_chance else "#cfd6dc" for row in rows]},
                hovertemplate="%{y}: %{x:.0%}<extra></extra>",
                showlegend=False,
            ),
            row=1,
            col=column,
        )
        figure.add_trace(
            go.Scatter(
                x=[row.chance for row in rows],
                y=[row.name for row in rows],
                mode="markers",
                name="most that chance gave",
                marker={"symbol": "line-ns-open", "size": 16, "color": ACCENT, "line": {"width": 2}},
                hovertemplate="by chance up to %{x:.0%}<extra></extra>",
                showlegend=column == 1,
            ),
            row=1,
            col=column,
        )
        figure.update_xaxes(tickformat=".0%", range=[0, 1.02], row=1, col=column)
    most = max((len(own) for own in told.values()), default=1)
    return styled(figure, height=200 + 34 * most)
