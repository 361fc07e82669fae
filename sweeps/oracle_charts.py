"""The picture of an oracle: all architectures of a space, their front, and what sweeps derived of them."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from easrec.files import write_atomically
from sweeps.charts import log_axis
from sweeps.oracle_tables import SUPERNET, Truth

_FRONT = "#0b6e99"
_GREY = "#8a8f98"
_MARKS = ("o", "s", "^", "D", "v", "P")


def oracle_png(truth: Truth, sweeps: Mapping[Path, pd.DataFrame], path: Path, *, dataset: str) -> None:
    """Draw accuracy against FLOPs, and accuracy after retraining against that read off the supernet.

    Args:
        truth: the whole space.
        sweeps: trials of sweeps by directory; what they derived is marked.
        path: the png, written atomically.
        dataset: name of the data set.
    """
    figure = Figure(figsize=(12, 5.6), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)  # without pyplot: nothing global, and any thread may draw
    left, right = figure.subplots(1, 2)
    means, accuracy = truth.means, truth.accuracy
    front = means.loc[truth.front]
    for axes, column in ((left, "flops"), (right, SUPERNET)):
        axes.scatter(
            means[column], means[accuracy], s=18, color=_GREY, alpha=0.6, lw=0, label="all architectures"
        )
        axes.scatter(front[column], front[accuracy], s=34, color=_FRONT, lw=0, zorder=4, label="true front")
        for mark, (directory, trials) in zip(_MARKS, sweeps.items(), strict=False):
            derived = means.loc[means.index.isin(trials["architecture_id"])]
            axes.scatter(
                derived[column],
                derived[accuracy],
                s=130,
                marker=mark,
                facecolor="none",
                edgecolor="#b3392f",
                zorder=5,
                label=f"derived by {directory.name}",
            )
        axes.grid(color="#e6e8eb", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    left.step(front["flops"], front[accuracy], where="post", color=_FRONT, alpha=0.5)
    log_axis(left, truth.means["flops"].tolist())
    left.set_xlabel("FLOPs of one sequence")
    left.set_ylabel(f"{accuracy} after retraining, mean over seeds")
    right.set_xlabel("NDCG@10 with the warm supernet's weights")
    tau, _ = truth.rank_correlation()
    left.set_title(f"All architectures of a space on {dataset}", loc="left", fontsize=11, parse_math=False)
    right.set_title(f"The supernet's ranking: Kendall's tau {tau:.2f}", loc="left", fontsize=11)
    left.legend(frameon=False, fontsize=8, loc="lower right")
    figure.tight_layout()
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))
