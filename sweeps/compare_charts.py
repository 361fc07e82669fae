"""The picture of a comparison: accuracy against inference time, a point for each method."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from easrec.files import write_atomically
from sweeps.compare_tables import Contest
from sweeps.labels import place_labels

_REFERENCE = "#0b6e99"
_OTHERS = "#8a8f98"


def comparison_png(
    contest: Contest, labels: Mapping[str, str], reference: str, accuracy: str, path: Path, *, dataset: str
) -> None:
    """Draw the mean test accuracy of each method against the time that it needs for all test users.

    Bars are standard deviations: over seeds, and over repeated measurements.

    Args:
        contest: what was found; `inference_s` must have been measured.
        labels: method -> what it is called.
        reference: the method that stands out.
        accuracy: the test metric, such as `test/unseen/ndcg_at_10`.
        path: the png, written atomically.
        dataset: name of the data set.
    """
    summary = contest.summary().dropna(subset=[accuracy, "inference_s"])
    figure = Figure(figsize=(8.4, 5.8), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)  # without pyplot: nothing global, and any thread may draw
    axes = figure.subplots()
    _, protocol, name = accuracy.split("/")
    for row in summary.to_dict("records"):
        axes.errorbar(
            row["inference_s"],
            row[accuracy],
            xerr=row.get("inference_s_sd"),
            yerr=row.get(f"{accuracy}_sd"),
            fmt="o",
            ms=7,
            lw=1,
            color=_REFERENCE if row["method"] == reference else _OTHERS,
            zorder=5 if row["method"] == reference else 4,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.22, y=0.14)
    axes.set_xlabel("time for all test users in s")
    axes.set_ylabel(f"test {name.partition('_')[0].upper()}@{name.rpartition('_')[2]} ({protocol})")
    axes.set_title(f"Accuracy against inference time on {dataset}", loc="left", parse_math=False)
    axes.grid(color="#e6e8eb", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    place_labels(
        axes,
        list(zip(summary["inference_s"], summary[accuracy], strict=True)),
        [labels[method] for method in summary["method"]],
        bold=[method == reference for method in summary["method"]],
    )
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
