"""Labels of points in a matplotlib panel, placed where they cover nothing."""

import itertools
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import Normal, Stroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

# Directions in the order in which a reader likes them: beside and above the point first.
_DIRECTIONS = [math.radians(angle) for angle in (55, 125, -55, -125, 0, 180, 90, -90)]
_DISTANCES = (9.0, 17.0, 27.0, 39.0, 53.0)


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    obstacles: Sequence[tuple[float, float]] = (),
    line: Sequence[tuple[float, float]] = (),
    bold: Sequence[bool] = (),
    radius: float = 6.0,
    fontsize: float = 9.0,
    color: str = "#333333",
) -> list[Annotation]:
    """Write a text beside each point, clear of all points, the other texts, a line and the frame.

    Call it last: later changes of the limits or of the layout move the points under the labels.

    Args:
        axes: the panel; its figure must have an Agg canvas.
        points: data coordinates of the labelled points.
        texts: one for each point.
        obstacles: data coordinates of further points to keep clear of, half the size.
        line: data coordinates of the corners of a line of horizontal and vertical parts.
        bold: for each text, whether it stands out; none does if left out.
        radius: half the size of a marker, in typographic points.
        fontsize: of the labels, in typographic points.
        color: of the labels.

    Returns:
        The annotations in the order of `points`; where a panel is too full, the place that overlaps
        least is taken.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None and isinstance(figure.canvas, FigureCanvasAgg)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[no-untyped-call]
    pixels = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    # A label must cover no marker and no other label; it may touch the line if it must.
    taken = [
        Bbox.from_extents(x, y, x, y).padded(radius * pixels) for x, y in axes.transData.transform(points)
    ]
    if obstacles:
        small = [Bbox.from_extents(x, y, x, y) for x, y in axes.transData.transform(obstacles)]
        taken += [box.padded(radius * pixels / 2) for box in small]
    corners = list(axes.transData.transform(line)) if line else []
    strokes = [Bbox([start, end]).padded(1.5 * pixels) for start, end in itertools.pairwise(corners)]
    placed = []
    for index, (point, text) in enumerate(zip(points, texts, strict=True)):
        label = axes.annotate(
            text,
            point,
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=fontsize,
            fontweight="bold" if bold and bold[index] else "normal",
            color=color,
            zorder=6,
            path_effects=[Stroke(linewidth=2.5, foreground="white"), Normal()],
        )
        size = label.get_window_extent(renderer)
        x, y = axes.transData.transform(point)
        best = (math.inf, 0.0, 0.0)
        for distance in _DISTANCES:
            for angle in _DIRECTIONS:
                # The nearest edge of the text, not its middle, keeps the distance from the point.
                dx = math.cos(angle) * (distance * pixels + size.width / 2)
                dy = math.sin(angle) * (distance * pixels + size.height / 2)
                box = Bbox.from_bounds(
                    x + dx - size.width / 2, y + dy - size.height / 2, size.width, size.height
                )
                cost = 4 * sum(_overlap(box, other) for other in taken)
                cost += sum(_overlap(box, stroke) for stroke in strokes)
                cost += 4 * (size.width * size.height - _overlap(box, frame))
                cost += distance  # among free places the nearest
                if cost < best[0]:
                    best = (cost, dx, dy)
        _, dx, dy = best
        label.set_position((dx / pixels, dy / pixels))
        box = label.get_window_extent(renderer)
        taken.append(box.expanded(1.04, 1.15))
        # Farther away, a line from the text's nearest edge tells which point it belongs to.
        edge = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
        if math.dist(edge, (x, y)) > 1.5 * _DISTANCES[0] * pixels:
            axes.annotate(
                "",
                point,
                xytext=((edge[0] - x) / pixels, (edge[1] - y) / pixels),
                textcoords="offset points",
                arrowprops={
                    "arrowstyle": "-",
                    "color": "#777777",
                    "lw": 0.8,
                    "shrinkA": 1,
                    "shrinkB": radius,
                },
                zorder=4,
            )
        placed.append(label)
    return placed


def _overlap(one: Bbox, other: Bbox) -> float:
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else float(common.width * common.height)
