"""The tables of a comparison: figures by hand, and the text to the letter."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from sweeps.compare_charts import comparison_png
from sweeps.compare_paper import beside_paper, gates_beside_paper
from sweeps.compare_tables import Contest, accuracy_metrics, differences, read_contest_gains
from sweeps.compare_text import Cell, Grid, grids, latex, markdown, terminal_table
from sweeps.records import MEASURED
from sweeps.user_ranks import Gains, write_ranks

LABELS = {"easrec": "EASRec", "sasrec": "SASRec (w/o LinRec)", "fdsa": "FDSA (w/o LinRec)"}
USERS = 200


def gains(share: float, seed: int = 0) -> Gains:
    """As many users as `share` says earned 1, the others 0."""
    earned = np.zeros(USERS)
    earned[: round(share * USERS)] = 1
    return Gains(np.arange(USERS), np.ones(USERS), earned)


def contest(*, seeds: int = 2, measurements: int = 3) -> Contest:
    """EASRec is the best in all accuracies, FDSA the worst; each costs twice what the one before does."""
    metrics = accuracy_metrics(["unseen"])
    shares = {"easrec": 0.5, "sasrec": 0.49, "fdsa": 0.1}
    rows, timings = [], []
    for place, (method, share) in enumerate(shares.items()):
        for seed in range(seeds):
            costs = {"flops": 1e6 * 2**place, "params": 1000.0, "choosing_s": 3.0, "total_s": 4.0}
            values = dict.fromkeys(metrics, share + 0.01 * seed)
            rows.append({"method": method, "seed": seed, "architecture_id": "a", **values, **costs})
            for number in range(measurements):
                jitter = 0.01 * number
                timings.append(
                    {"method": method, "seed": seed, "measurement": number, "session": "a"}
                    | dict.fromkeys(MEASURED, 2.0**place + jitter + 0.001 * seed)
                )
    known = {method: dict.fromkeys(metrics, gains(share)) for method, share in shares.items()}
    columns = ["method", "seed", "measurement", "session", *MEASURED]
    return Contest(pd.DataFrame(rows), pd.DataFrame(timings, columns=columns), known)


def test_means_and_deviations_are_over_seeds_and_over_measurements() -> None:
    table = contest().summary().set_index("method")
    assert table["num_seeds"].tolist() == [2, 2, 2]
    assert table["test/unseen/ndcg_at_10"]["easrec"] == pytest.approx(0.505)
    assert table["test/unseen/ndcg_at_10_sd"]["easrec"] == pytest.approx(np.std([0.5, 0.51], ddof=1))
    assert table["inference_s"]["sasrec"] == pytest.approx(2.0 + 0.01 + 0.0005)
    assert table["inference_s_sd"]["sasrec"] == pytest.approx(np.std([0.0, 0.01, 0.02], ddof=1))
    assert "flops_sd" not in table  # exact


def test_differences_are_corrected_within_each_table() -> None:
    found = differences(contest(), "easrec")
    accuracy = found[found["table"] == "unseen"]
    assert len(accuracy) == 6 * 2 and len(found[found["table"] == "costs"]) == 5 * 2
    row = accuracy.query("metric == 'test/unseen/ndcg_at_10'").set_index("method")
    assert row["difference"]["fdsa"] == pytest.approx(-0.4)
    assert row["difference"]["sasrec"] == pytest.approx(-0.01)
    assert row["low"]["fdsa"] < -0.4 < row["high"]["fdsa"]
    # 2 of 200 users make no difference; 80 do, after a correction for twelve comparisons too.
    assert not row["told_apart"]["sasrec"] and row["told_apart"]["fdsa"]
    assert (accuracy["p_holm"] >= accuracy["p"]).all()
    smallest = accuracy["p"].min()
    assert accuracy["p_holm"].min() == pytest.approx(12 * smallest, rel=1e-6, abs=0)
    # Costs go by the measurements, which rise and fall together.
    costs = found.query("table == 'costs' and metric == 'inference_s'").set_index("method")
    assert costs["told_apart"].all() and costs["difference"]["fdsa"] == pytest.approx(3.0)


def test_only_what_was_measured_together_tells_costs_apart() -> None:
    whole = contest()
    rng = np.random.default_rng(0)
    timings = whole.timings.assign(
        **{cost: whole.timings[cost] + 0.01 * rng.random(len(whole.timings)) for cost in MEASURED}
    )

    def judged(table: pd.DataFrame) -> dict[str, float]:
        found = differences(Contest(whole.trials, table, whole.gains), "easrec")
        return found.query("metric == 'inference_s'").set_index("method")["p"].to_dict()

    sasrec = timings["method"] == "sasrec"
    everything = judged(timings)
    assert set(everything) == {"sasrec", "fdsa"}
    # Another day's are no partners, and what is left is joined by number, not by place.
    elsewhere = timings.assign(session=np.where(sasrec, "b", "a"))
    assert judged(elsewhere) == pytest.approx({"fdsa": everything["fdsa"]})
    shifted = timings[~(sasrec & (timings["measurement"] == 0))]
    shifted = shifted[~((shifted["method"] == "easrec") & (shifted["measurement"] == 2))]
    assert set(judged(shifted)) == {"fdsa"}
    # A measurement that lacks a seed is a mean over others.
    partial = timings[~(sasrec & (timings["measurement"] == 0) & (timings["seed"] == 1))]
    pairs = Contest(whole.trials, partial, whole.gains).paired("sasrec", "easrec", "inference_s")
    assert list(pairs.index) == [1, 2]


def test_a_network_without_a_state_has_no_time_of_an_update() -> None:
    whole = contest()
    timings = whole.timings.copy()
    timings.loc[timings["method"] == "sasrec", "update_ms_p50"] = 0.0
    costs = grids(Contest(whole.trials, timings, whole.gains), LABELS, "easrec")[1]
    at = costs.columns.index("update ms")
    assert {name: cells[at].text[:4] for name, cells in costs.rows} == {
        "EASRec": "1.01",
        "SASRec (w/o LinRec)": "-",
        "FDSA (w/o LinRec)": "4.01",
    }


def test_a_method_that_lacks_a_seed_says_so_and_is_not_judged() -> None:
    whole = contest()
    trials = whole.trials[~((whole.trials["method"] == "fdsa") & (whole.trials["seed"] == 1))]
    partial = Contest(trials, whole.timings, whole.gains)
    assert set(differences(partial, "easrec")["method"]) == {"sasrec"}
    table = grids(partial, LABELS, "easrec")[0]
    rows = dict(table.rows)
    assert set(rows) == {"EASRec", "SASRec (w/o LinRec)", "FDSA (w/o LinRec), 1 of 2 seeds"}
    assert {cell.mark for cell in rows["FDSA (w/o LinRec), 1 of 2 seeds"]} == {""}
    (note,) = [note for note in table.notes if note.startswith("not judged")]
    assert note.endswith("the same seeds and users as those of EASRec: FDSA (w/o LinRec), 1 of 2 seeds")
    # So do its rows beside the paper's figures.
    renamed = trials.rename(columns=lambda name: str(name).replace("/unseen/", "/pop100/"))
    theirs = Contest(renamed, whole.timings, {})
    for beside in beside_paper(theirs, LABELS, "ML-1M", differs=[]):
        assert "FDSA (w/o LinRec), 1 of 2 seeds" in dict(beside.rows)
    gates = gates_beside_paper(theirs, {"easrec": 2, "fdsa": 1}, differs=[])
    assert gates is not None
    assert [name for name, _ in gates.rows] == ["gates of 2 layers", "gates of 1 layer, 1 of 2 seeds"]
    assert any("FDSA" in name and "†" in [cell.mark for cell in cells] for name, cells in _marked(whole))


def _marked(found: Contest) -> list[tuple[str, tuple[Cell, ...]]]:
    return list(grids(found, LABELS, "easrec")[0].rows)


def test_one_measurement_tells_no_costs_apart() -> None:
    found = differences(contest(measurements=1), "easrec")
    assert set(found["table"]) == {"unseen"}


def test_the_reference_may_be_missing() -> None:
    whole = contest()
    trials = whole.trials[whole.trials["method"] != "easrec"]
    found = differences(Contest(trials, whole.timings, whole.gains), "easrec")
    assert found.empty and list(found.columns)[:3] == ["table", "metric", "method"]


def test_what_networks_earned_is_averaged_over_seeds(tmp_path: Path) -> None:
    paths = []
    for seed, ranks in enumerate(([1, 1, 20], [1, 20, 20])):
        table = pd.DataFrame({"split": "test", "user": [0, 1, 2], "full": pd.array(ranks, dtype="Int32")})
        write_ranks(table, tmp_path / f"{seed}.parquet")
        paths.append(tmp_path / f"{seed}.parquet")
    found = read_contest_gains({"a": paths}, ["test/full/recall_at_10", "test/unseen/recall_at_10"])
    assert list(found["a"]) == ["test/full/recall_at_10"]
    assert found["a"]["test/full/recall_at_10"].earned.tolist() == [1.0, 0.5, 0.0]


def test_the_star_stands_where_the_reference_beats_all_that_ended_otherwise() -> None:
    def marks(shares: dict[str, float]) -> dict[str, str]:
        found = contest()
        metrics = accuracy_metrics(["unseen"])
        known = {method: dict.fromkeys(metrics, gains(share)) for method, share in shares.items()}
        table = grids(Contest(found.trials, found.timings, known), LABELS, "easrec")[0]
        return {name: cells[0].mark for name, cells in table.rows}

    worse = {"easrec": 0.5, "sasrec": 0.2, "fdsa": 0.1}
    assert marks(worse) == {"EASRec": "*", "SASRec (w/o LinRec)": "†", "FDSA (w/o LinRec)": "†"}
    # The same network: nothing to beat.
    assert marks({**worse, "fdsa": 0.5})["EASRec"] == "*"
    assert marks({**worse, "sasrec": 0.49})["EASRec"] == ""
    # Told apart, and better than EASRec.
    assert marks({**worse, "sasrec": 0.9}) == {
        "EASRec": "",
        "SASRec (w/o LinRec)": "†",
        "FDSA (w/o LinRec)": "†",
    }
    assert set(marks(dict.fromkeys(worse, 0.5)).values()) == {""}


def test_there_is_no_star_beside_a_method_that_was_not_judged() -> None:
    whole = contest()
    metrics = accuracy_metrics(["unseen"])
    known = {method: dict.fromkeys(metrics, gains({"easrec": 0.5}.get(method, 0.1))) for method in LABELS}

    def table(trials: pd.DataFrame, timings: pd.DataFrame, title: str) -> tuple[Grid, dict[str, Cell]]:
        (made,) = [
            one for one in grids(Contest(trials, timings, known), LABELS, "easrec") if one.title == title
        ]
        return made, {name: cells[0] for name, cells in made.rows}

    assert table(whole.trials, whole.timings, "accuracy (unseen)")[1]["EASRec"].mark == "*"
    # FDSA's one seed is better than all: EASRec does not win, and one seed is not the best of a column.
    lacking = whole.trials[(whole.trials["method"] != "fdsa") | (whole.trials["seed"] == 0)].copy()
    lacking.loc[lacking["method"] == "fdsa", metrics] = 0.9
    made, cells = table(lacking, whole.timings, "accuracy (unseen)")
    assert cells["EASRec"] == Cell("0.5050 ± 0.0071", best=True)
    assert not cells["FDSA (w/o LinRec), 1 of 2 seeds"].best
    size, _ = table(lacking, whole.timings, "size and training")
    assert not any("FDSA" in note for note in size.notes if "front" in note)

    # The same of costs: SASRec's, of another day, are lower.
    assert table(whole.trials, whole.timings, "measured costs")[1]["EASRec"].mark == "*"
    timings = whole.timings.copy()
    theirs = timings["method"] == "sasrec"
    timings.loc[theirs, list(MEASURED)] /= 100
    timings.loc[theirs, "session"] = "b"
    made, cells = table(whole.trials, timings, "measured costs")
    assert cells["EASRec"].mark == "" and cells["FDSA (w/o LinRec)"].mark == "†"
    assert any(note.endswith("those of EASRec: SASRec (w/o LinRec)") for note in made.notes)


def test_what_was_not_measured_of_every_seed_has_no_mean() -> None:
    whole = contest()
    second = (whole.timings["method"] == "sasrec") & (whole.timings["seed"] == 1)
    # SASRec's second network lacks one measurement: the other two count, of both networks.
    timings = whole.timings[~(second & (whole.timings["measurement"] == 2))]
    found = Contest(whole.trials, timings, whole.gains)
    assert found.series("sasrec", "inference_s").to_dict() == pytest.approx({0: 2.0005, 1: 2.0105})
    # It lacks all of them: what is known is the cost of the first network alone.
    found = Contest(whole.trials, whole.timings[~second], whole.gains)
    made = grids(found, LABELS, "easrec")
    costs = dict(made[1].rows)
    assert {cell.text for cell in costs["SASRec (w/o LinRec)"]} == {"-"}
    assert costs["EASRec"][0].text.startswith("1.01")
    fronts = [note for table in made for note in table.notes if "all users s:" in note]
    assert fronts and "SASRec" not in fronts[0]
    renamed = found.trials.rename(columns=lambda name: str(name).replace("/unseen/", "/pop100/"))
    beside = beside_paper(Contest(renamed, found.timings, {}), LABELS, "ML-1M", differs=[])
    assert dict(beside[1].rows)["SASRec (w/o LinRec)"][0].text.startswith("- / ")


@pytest.mark.filterwarnings("error")
def test_a_method_of_which_nothing_was_measured_is_quietly_left_without_costs(tmp_path: Path) -> None:
    whole = contest()
    found = Contest(whole.trials, whole.timings[whole.timings["method"] != "sasrec"], whole.gains)
    assert math.isnan(found.summary().set_index("method")["inference_s"]["sasrec"])
    comparison_png(found, LABELS, "easrec", "test/unseen/ndcg_at_10", tmp_path / "a.png", dataset="x")


GRID = Grid(
    "accuracy (100 %_x)",
    ("test NDCG@10", "s"),
    (
        ("EASRec", (Cell("0.5 ± 0.1", True, "*"), Cell("1"))),
        ("A & B|C", (Cell("0.4", mark="†"), Cell("-"))),
    ),
    ("one note", "*: a mark"),
)


def test_markdown_to_the_letter() -> None:
    assert markdown(GRID) == (
        "### accuracy (100 %_x)\n"
        "\n"
        "| method | test NDCG@10 | s |\n"
        "|---|---:|---:|\n"
        "| EASRec | **0.5 ± 0.1**\\* | 1 |\n"
        "| A & B\\|C | 0.4† | - |\n"
        "\n"
        "One note.  \n"
        "\\*: a mark.\n"
    )


def test_latex_to_the_letter() -> None:
    assert latex(GRID) == (
        "\\begin{table}\n"
        "\\centering\n"
        "\\caption{accuracy (100 \\%\\_x). one note. *: a mark.}\n"
        "\\begin{tabular}{lrr}\n"
        "\\hline\n"
        "method & test NDCG@10 & s \\\\\n"
        "\\hline\n"
        "EASRec & \\textbf{0.5 $\\pm$ 0.1}$^{*}$ & 1 \\\\\n"
        "A \\& B|C & 0.4$^{\\dagger}$ & - \\\\\n"
        "\\hline\n"
        "\\end{tabular}\n"
        "\\end{table}\n"
    )


def test_the_terminal_shows_every_figure() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    for grid in grids(contest(), LABELS, "easrec"):
        console.print(terminal_table(grid))
    text = console.export_text()
    for part in ("EASRec", "0.5050 ± 0.0071", "all users s", "MFLOPs", "2.00", "4.00"):
        assert part in text


def test_what_is_exact_has_no_deviation() -> None:
    found = contest()
    trials = found.trials.copy()
    trials.loc[(trials["method"] == "fdsa") & (trials["seed"] == 1), "params"] = 2000.0
    sizes = next(
        grid
        for grid in grids(Contest(trials, found.timings, found.gains), LABELS, "easrec")
        if grid.title == "size and training"
    )
    shown = {name: cells[sizes.columns.index("parameters")].text for name, cells in sizes.rows}
    assert shown == {
        "EASRec": "1,000",
        "SASRec (w/o LinRec)": "1,000",
        "FDSA (w/o LinRec)": "1,500 ± 707",
    }


def test_one_seed_has_no_deviation_and_the_table_says_so() -> None:
    single = grids(contest(seeds=1), LABELS, "easrec")[0]
    assert "a deviation needs two or more" in single.notes[0]
    assert all("±" not in cell.text for _, cells in single.rows for cell in cells)
    assert any("±" in cell.text for _, cells in grids(contest(), LABELS, "easrec")[0].rows for cell in cells)


def test_the_best_of_a_column_is_bold_also_where_the_lowest_is_best() -> None:
    costs = next(grid for grid in grids(contest(), LABELS, "easrec") if grid.title == "measured costs")
    assert [cells[0].best for _, cells in costs.rows] == [True, False, False]
    times = next(grid for grid in grids(contest(), LABELS, "easrec") if grid.title == "size and training")
    search = times.columns.index("search s")
    assert not any(cells[search].best for _, cells in times.rows)


def test_the_notes_name_the_methods_on_each_front() -> None:
    rows = contest()
    rows.trials.loc[rows.trials["method"] == "fdsa", "flops"] = 1.0  # the worst, and the cheapest
    table = rows.summary().set_index("method")
    (grid,) = (grid for grid in grids(rows, LABELS, "easrec") if grid.title == "size and training")
    notes = [note for note in grid.notes if note.startswith("on the front")]
    shown = ("flops", "inference_s", "latency_ms_p50", "served_ms_p50")
    for note, cost in zip(notes, shown, strict=True):
        accuracies, costs = table["test/unseen/ndcg_at_10"], table[cost]
        unbeaten = [
            LABELS[name]
            for name in table.index
            if not any(
                accuracies[other] >= accuracies[name]
                and costs[other] <= costs[name]
                and (accuracies[other], costs[other]) != (accuracies[name], costs[name])
                for other in table.index
            )
        ]
        assert note.endswith(": " + ", ".join(unbeaten)), cost
    assert notes[0].endswith("MFLOPs: EASRec, FDSA (w/o LinRec)")


def test_the_papers_figures_stand_beside_ours() -> None:
    found = contest()
    renamed = found.trials.rename(columns=lambda name: str(name).replace("/unseen/", "/pop100/"))
    table = Contest(renamed, found.timings, {})
    accuracy, costs = beside_paper(table, LABELS, "ML-1M", differs=["ours: a laptop"])
    row = dict(accuracy.rows)["FDSA (w/o LinRec)"]
    assert row[accuracy.columns.index("test ndcg")].text == "0.1050 / 0.4447"
    assert dict(costs.rows)["EASRec"][0].text == "1.01 / 14.8"
    assert "ours: a laptop" in accuracy.notes and any("pop100" in note for note in accuracy.notes)
    # Without that protocol and without measurements there is nothing to set beside.
    assert beside_paper(Contest(found.trials, found.timings[:0], {}), LABELS, "ML-1M", differs=[]) == []


def test_the_papers_gates_stand_beside_ours() -> None:
    found = contest()
    renamed = found.trials.rename(columns=lambda name: str(name).replace("/unseen/", "/pop100/"))
    table = gates_beside_paper(Contest(renamed, found.timings, {}), {"easrec": 2, "fdsa": 1}, differs=["x"])
    assert table is not None
    assert [name for name, _ in table.rows] == ["gates of 2 layers", "gates of 1 layer"]
    assert table.rows[1][1][table.columns.index("valid ndcg")].text == "0.1050 / 0.4771"
    assert gates_beside_paper(found, {"easrec": 2}, differs=[]) is None


@pytest.mark.parametrize("settings", [{}, {"seeds": 1, "measurements": 1}])
def test_the_chart_is_drawn(settings: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "chart.png"
    comparison_png(contest(**settings), LABELS, "easrec", "test/unseen/ndcg_at_10", path, dataset="x_$y")
    assert path.stat().st_size > 10_000


def test_a_figure_that_is_not_known_is_a_dash() -> None:
    found = contest()
    trials = found.trials.copy()
    trials.loc[trials["method"] == "fdsa", "test/unseen/ndcg_at_10"] = math.nan
    table = grids(Contest(trials, found.timings, {}), LABELS, "easrec")[0]
    assert dict(table.rows)["FDSA (w/o LinRec)"][-1].text == "-"
