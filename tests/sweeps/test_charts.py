import base64
import itertools
import json
import math
import re
import threading

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from easrec.models.architecture import Architecture
from sweeps.charts import ChartLabels, pareto_html, pareto_png
from sweeps.description import MAX_LENGTH, sweep_description
from sweeps.labels import place_labels
from sweeps.panels import describe_counts, panel_of, tradeoff_labels
from sweeps.results import TrialRecord, results_frame

VALID = "valid/unseen/ndcg_at_10"
LABELS = ChartLabels(dataset="ml-100k", max_length=50, threads=1)


def trial(tradeoff, hidden_size, accuracy, *, seed=0, latency=None, num_layers=1):
    metrics = {VALID: accuracy, "test/unseen/ndcg_at_10": accuracy - 0.004, "flops": 1e4 * hidden_size}
    if latency is not None:
        metrics["latency_ms_p50"] = latency
    return TrialRecord(
        trial_id=f"{tradeoff}-{seed}",
        tradeoff=tradeoff,
        seed=seed,
        architecture=Architecture(hidden_size, 4 * hidden_size, num_layers, 4),
        params={},
        metrics=metrics,
        start_ms=0,
        end_ms=1,
    )


def sweep(*, seeds=1, latency=True):
    records = []
    for seed, (tradeoff, hidden_size, accuracy) in itertools.product(
        range(seeds), [(0, 64, 0.097), (0.1, 32, 0.100), (0.3, 32, 0.100), (1, 16, 0.093)]
    ):
        measured = hidden_size / 40 if latency else None
        records.append(trial(tradeoff, hidden_size, accuracy + seed / 1000, seed=seed, latency=measured))
    return results_frame(records)


ONE_TRIAL = results_frame([trial(0.1, 32, 0.1, latency=1.0)])
PARTLY_MEASURED = results_frame([trial(0, 64, 0.1, latency=2.0), trial(1, 16, 0.09)])
UNDECIDED = results_frame(
    [trial(0, 64, 0.100), trial(0, 64, 0.104, seed=1), trial(1, 16, 0.099), trial(1, 16, 0.101, seed=1)]
)
FRAMES = {
    "undecided": UNDECIDED,
    "one trial": ONE_TRIAL,
    "one seed": sweep(),
    "three seeds": sweep(seeds=3),
    "no latency": sweep(latency=False),
    "latency of some": PARTLY_MEASURED,
}


def plotly_data(path):
    """The traces of a plotly page."""
    text = path.read_text(encoding="utf-8")
    start = text.index("[", text.rindex("Plotly.newPlot("))
    return json.JSONDecoder().raw_decode(text[start:])[0]


def numbers(array):
    if isinstance(array, dict):
        return np.frombuffer(base64.b64decode(array["bdata"]), dtype=array["dtype"]).tolist()
    return array


@pytest.mark.parametrize("name", FRAMES)
def test_the_png_is_drawn_without_pyplot_from_any_thread(name, tmp_path):
    errors = []

    def draw():
        try:
            pareto_png(FRAMES[name], tmp_path / "pareto.png", LABELS)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    assert errors == []
    height, width, _ = imread(tmp_path / "pareto.png").shape
    assert (width, height) == (1800, 930)
    assert [path.name for path in tmp_path.iterdir()] == ["pareto.png"]
    pyplot = getattr(matplotlib, "pyplot", None)
    assert pyplot is None or pyplot.get_fignums() == []


@pytest.mark.parametrize("name", FRAMES)
def test_the_page_needs_no_network(name, tmp_path):
    pareto_html(FRAMES[name], tmp_path / "pareto.html", LABELS)
    text = (tmp_path / "pareto.html").read_text(encoding="utf-8")
    assert "Plotly.newPlot" in text and len(text) > 1_000_000
    assert re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=["']?http""", text) == []


def test_hovering_tells_architecture_tradeoffs_and_metrics(tmp_path):
    pareto_html(sweep(seeds=2), tmp_path / "pareto.html", LABELS)
    hovers = [text for trace in plotly_data(tmp_path / "pareto.html") for text in trace.get("hovertext", [])]
    (text, _) = [text for text in hovers if "h32-i128-l1-a4-linear-column-g2" in text]  # in both panels
    assert "λ 0.1, 0.3" in text
    assert "validation NDCG@10 (unseen), used by the search: 0.1005 ± 0.00071" in text
    assert "FLOPs of one forward pass: 320,000" in text
    assert "latency p50, ms: 0.8000" in text
    assert "2 retrainings" in text  # not 4: the tradeoffs share them


def test_the_page_marks_the_front_in_both_panels(tmp_path):
    pareto_html(sweep(), tmp_path / "pareto.html", LABELS)
    traces = plotly_data(tmp_path / "pareto.html")
    fronts = {trace["xaxis"]: trace for trace in traces if trace.get("name") == "Pareto front"}
    assert numbers(fronts["x"]["x"]) == [160_000, 320_000]
    assert numbers(fronts["x2"]["x"]) == [0.4, 0.8]
    lines = [trace for trace in traces if trace["mode"] == "lines"]
    assert [line["line"]["shape"] for line in lines] == ["hv", "hv"]
    assert numbers(lines[0]["y"]) == [0.093, 0.100]


def test_a_data_set_may_be_called_anything(tmp_path):
    labels = ChartLabels(dataset=r"<b>$a\b$ & 'c'", max_length=50, threads=1)
    pareto_png(ONE_TRIAL, tmp_path / "pareto.png", labels)
    pareto_html(ONE_TRIAL, tmp_path / "pareto.html", labels)
    assert "on <b>$a" not in (tmp_path / "pareto.html").read_text(encoding="utf-8")


def test_axis_titles_name_unit_protocol_and_conditions():
    assert LABELS.accuracy_title == "validation NDCG@10 (unseen), used by the search"
    assert list(LABELS.costs.values()) == [
        "FLOPs of one forward pass, N = 50",
        "latency of one request in ms (p50, 1 thread)",
    ]
    other = ChartLabels(dataset="x", max_length=20, threads=2, accuracy="valid/full/ndcg_at_20")
    assert other.accuracy_title == "validation NDCG@20 (full), used by the search"
    assert "2 threads" in other.costs["latency_ms_p50"]


def test_equal_architectures_share_one_point():
    panel = panel_of(sweep(), "flops", VALID)
    assert panel.means["label"].tolist() == ["λ 1", "λ 0.1, 0.3", "λ 0"]
    assert panel.means["front"].tolist() == [True, True, False]
    assert panel.seeds.empty


def test_seeds_are_points_of_their_own_below_their_mean():
    panel = panel_of(sweep(seeds=3), "flops", VALID)
    assert len(panel.means) == 3 and len(panel.seeds) == 9
    assert panel.means["y"].iloc[0] == pytest.approx(0.093 + (0 + 1 + 2) / 3000)


def test_only_what_was_measured_is_in_the_latency_panel():
    panel = panel_of(PARTLY_MEASURED, "latency_ms_p50", VALID)
    assert panel.means["label"].tolist() == ["λ 0"]
    assert panel_of(sweep(latency=False), "latency_ms_p50", VALID).means.empty


def test_a_tradeoff_whose_seeds_disagree_says_how_many_led_where():
    records = [trial(0.1, 32, 0.1), trial(0.1, 32, 0.1, seed=1), trial(0.1, 16, 0.1, seed=2)]
    frame = results_frame(records)
    assert sorted(tradeoff_labels(frame, counted=True).values()) == ["λ 0.1 (1/3)", "λ 0.1 (2/3)"]
    assert set(tradeoff_labels(frame, counted=False).values()) == {"λ 0.1"}
    assert describe_counts(frame) == "1 lambda, 3 seeds, 2 architectures"
    assert "(k/n)" in sweep_description(frame, LABELS)
    assert "(k/n)" not in sweep_description(sweep(seeds=3), LABELS)


def test_of_many_tradeoffs_the_ends_are_named():
    frame = results_frame([trial(tradeoff, 32, 0.1) for tradeoff in (0, 0.03, 0.1, 0.3, 1)])
    assert list(tradeoff_labels(frame, counted=False).values()) == ["λ 0 … 1 (5 values)"]


@pytest.mark.parametrize("seed", range(5))
def test_labels_cover_neither_each_other_nor_points(seed):
    rng = np.random.default_rng(seed)
    figure = Figure(figsize=(6, 5))
    FigureCanvasAgg(figure)
    axes: Axes = figure.subplots()
    # Clusters, where labels put at one fixed side of their points would overlap.
    points = [(x + dx, y + dy) for x, y in rng.random((4, 2)) for dx, dy in rng.normal(size=(3, 2)) / 25]
    axes.scatter(*zip(*points, strict=True))
    axes.margins(0.15)
    labels = place_labels(axes, points, [f"λ 0.{index}, 0.3" for index in range(len(points))])
    renderer = figure.canvas.get_renderer()
    boxes = [label.get_window_extent(renderer) for label in labels]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    pixels = axes.transData.transform(points)
    assert not any(box.contains(x, y) for box in boxes for x, y in pixels)
    frame = axes.get_window_extent(renderer)
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    # Beside their own points: no label is farther away than the farthest place tried.
    for box, (x, y) in zip(boxes, pixels, strict=True):
        gap = math.hypot(max(box.x0 - x, x - box.x1, 0), max(box.y0 - y, y - box.y1, 0))
        assert gap <= 54 * figure.dpi / 72


def test_the_description_is_a_table_of_architectures_by_cost():
    lines = sweep_description(sweep(seeds=2), LABELS).splitlines()
    assert lines[0].startswith("**ml-100k: 4 lambdas, 2 seeds, 3 architectures.** 2 of them are on the front")
    rows = [line for line in lines if line.startswith("| ") and "`" in line]
    # Student's interval of 0.100 and 0.101: 12.706 times 0.0005 beside their mean. The two are better than
    # those of the neighbour, 0.093 and 0.094, by the same in both seeds.
    assert rows[1] == (
        "| 0.1, 0.3 | `h32-i128-l1-a4-linear-column-g2` | 0.1005 | 0.0941 to 0.1069 | 0.0965 | 320,000 "
        "| 0.80 | FLOPs, latency |"
    )
    assert [row.split("`")[1][:3] for row in rows] == ["h16", "h32", "h64"]
    assert all(line.count("|") == rows[0].count("|") for line in lines if line.startswith("|"))


def test_a_description_too_long_for_mlflow_keeps_the_front_and_says_what_is_missing():
    records = [trial(index, 4 * (200 - index), 0.1 - index / 1e4) for index in range(150)]
    beaten = trial(1000, 4 * 300, 0.01)
    text = sweep_description(results_frame([*records, beaten]), LABELS)
    assert len(text) <= MAX_LENGTH
    shown = text.count("`h")
    assert 40 < shown < 150
    assert f"{151 - shown} more architectures are in results.parquet." in text
    assert "h1200" not in text and "`h204-" in text


def test_the_description_says_what_the_data_do_not_show_and_links_to_the_runs():
    text = sweep_description(UNDECIDED, LABELS, links={"the front": "#/x"})
    (row,) = [line for line in text.splitlines() if "`h64" in line]
    assert row.endswith("| FLOPs (?) |")
    assert "(?): the data do not tell it apart from its cheaper neighbour on that front." in text
    assert "Intervals are over seeds (Student)." in text
    assert "Runs: [the front](#/x)." in text
    assert "(?)" not in sweep_description(sweep(seeds=2), LABELS)


def test_intervals_are_bars_and_what_they_do_not_separate_is_pale(tmp_path):
    panel = panel_of(UNDECIDED, "flops", VALID)
    assert panel.means["decided"].tolist() == [True, False]
    assert panel.means["low"].iloc[0] == pytest.approx(0.1 - 12.706 * 0.001, abs=1e-6)
    pareto_html(UNDECIDED, tmp_path / "pareto.html", LABELS)
    traces = plotly_data(tmp_path / "pareto.html")
    (front, _) = [trace for trace in traces if trace.get("name") == "Pareto front"]
    assert len(set(front["marker"]["color"])) == 2
    assert numbers(front["error_y"]["array"]) == pytest.approx([12.706 * 0.001, 12.706 * 0.002], abs=1e-6)
    # One seed and no ranks: nothing is known, and nothing is drawn as if it were.
    alone = results_frame([trial(0, 64, 0.1), trial(1, 16, 0.09)])
    assert panel_of(alone, "flops", VALID).means[["low", "high"]].isna().all(axis=None)
    pareto_html(alone, tmp_path / "alone.html", LABELS)
    assert not any("error_y" in trace for trace in plotly_data(tmp_path / "alone.html"))
