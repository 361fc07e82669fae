"""The report as one HTML page that needs no network: text, tables, and charts with plotly's code inside."""

import html
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from sweeps import page_figures
from sweeps.budget import FLOPS
from sweeps.charts import pareto_figure
from sweeps.choice import LATENCY
from sweeps.configurations import COSTS
from sweeps.findings import Findings
from sweeps.importance import FEWEST_TRIALS, SHUFFLES
from sweeps.page_text import answer_lines, chart_labels, summary, verdict
from sweeps.panels import interval_note
from sweeps.summary import counted

_STYLE = """
:root { --ink: #22262b; --quiet: #636a73; --line: #e3e6ea; --front: #0b6e99; --pale: #eef5f8; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff;
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 21px; margin: 52px 0 6px; }
p { max-width: 78ch; margin: 8px 0; }
.quiet { color: var(--quiet); font-size: 14px; }
.lead { background: var(--pale); border-left: 4px solid var(--front); border-radius: 4px;
        padding: 14px 22px; margin: 24px 0; }
.lead li { margin: 6px 0; max-width: 90ch; }
.answer { border: 1px solid var(--line); border-radius: 6px; padding: 12px 20px; margin: 20px 0; }
.scroll { overflow-x: auto; }
.wide { overflow-x: auto; }
.wide > div { min-width: 760px; }
table { border-collapse: collapse; font-size: 14px; margin: 12px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { color: var(--quiet); font-weight: 600; white-space: nowrap; }
th.text, td.text { text-align: left; }
tr.front td:first-child { border-left: 3px solid var(--front); }
tr.front td.name { font-weight: 600; }
.chip { border-radius: 9px; padding: 1px 8px; font-size: 12px; white-space: nowrap; background: #eceff2; }
.chip.sure { background: var(--front); color: #fff; }
.chip.unsure { background: #fff; color: var(--front); border: 1px dashed var(--front); }
th, td.name, td code { white-space: nowrap; }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: #f4f5f7;
       padding: 1px 4px; border-radius: 3px; }
a { color: var(--front); }
nav a { margin-right: 16px; font-size: 14px; }
"""

Where = Callable[[str], str]
"""Run id -> its address in MLflow's UI, or an empty text where no server is known."""


def report_page(findings: Findings, *, title: str, where: Where) -> str:
    """The whole page.

    Args:
        findings: what it says.
        title: what it is about: an experiment or a sweep.
        where: see `Where`.
    """
    sections = [
        ("Fronts", _fronts(findings)),
        ("Three objectives at once", _three(findings)),
        ("Configurations", _configurations(findings, where)),
        ("What λ does", _lambdas(findings)),
        ("How the front grew", _growth(findings)),
        ("Which settings matter", _importances(findings)),
        ("How to read this", _reading(findings, where)),
    ]
    links = "".join(
        f'<a href="#s{number}">{html.escape(name)}</a>' for number, (name, _) in enumerate(sections)
    )
    body = "\n".join(
        f'<h2 id="s{number}">{html.escape(name)}</h2>\n{text}' for number, (name, text) in enumerate(sections)
    )
    items = "\n".join(f"<li>{html.escape(sentence)}</li>" for sentence in summary(findings))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f"<script>{get_plotlyjs()}</script>\n</head>\n<body>\n<main>\n"
        f"<h1>{html.escape(title)}</h1>\n<p class='quiet'>{html.escape(_subtitle(findings))}</p>\n"
        f"<nav>{links}</nav>\n<div class='lead'><ul>{items}</ul></div>\n{_answer(findings, where)}\n{body}\n"
        "</main>\n</body>\n</html>\n"
    )


def _subtitle(findings: Findings) -> str:
    recorded = findings.recorded
    last = datetime.fromtimestamp(int(recorded.frame["end_ms"].max()) / 1000, UTC)
    parts = [
        recorded.dataset,
        f"histories of up to {recorded.max_length} items" if recorded.max_length else "",
        f"latency on {recorded.measured_on}" if recorded.measured_on else "",
        f"last trial ended {last:%d %B %Y, %H:%M} UTC",
    ]
    return "; ".join(part for part in parts if part)


def _answer(findings: Findings, where: Where) -> str:
    answer = findings.answer
    if answer is None:
        return ""
    lines = answer_lines(findings, answer, answer.trial_id)
    address = where(answer.trial_id) if answer.trial_id else ""
    shown = [html.escape(line) for line in lines]
    if address:
        run_id = html.escape(answer.trial_id)
        shown = [line.replace(run_id, f'<a href="{html.escape(address)}">{run_id}</a>') for line in shown]
    return "<div class='answer'>" + "".join(f"<p>{line}</p>" for line in shown) + "</div>"


def _chart(figure: go.Figure, name: str) -> str:
    """A chart as a part of the page; equal charts give equal bytes."""
    text: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"displaylogo": False, "responsive": True},
    )
    return text


def _wide(chart: str) -> str:
    """A chart whose panels stand side by side: on a narrow screen it is scrolled, not squeezed."""
    return f'<div class="wide">{chart}</div>'


def _paragraph(text: str, *, quiet: bool = False) -> str:
    return f"<p{' class=' + repr('quiet') if quiet else ''}>{html.escape(text)}</p>"


def _fronts(findings: Findings) -> str:
    labels = chart_labels(findings)
    figure = pareto_figure(findings.recorded.frame, labels, findings.confidence)
    figure.update_layout(title=None, height=560, margin={"t": 20, "l": 70, "r": 20})
    words = [
        "Filled: the data tell a point of the front apart from its neighbour that costs less. Pale: they do "
        "not, so that the cheaper one may be as good; off the front, a point that may be as good as the "
        "one that beats it. Hover for figures."
    ]
    bars = interval_note(findings.recorded.frame, findings.confidence)
    if bars:
        words.append(f"{bars[0].upper()}{bars[1:]}.")
    if not findings.fronts["accuracy and latency"]:
        words.append("No latency was measured, or none on one machine.")
    return _paragraph(" ".join(words)) + _wide(_chart(figure, "fronts")) + _neighbours(findings)


def _neighbours(findings: Findings) -> str:
    """Each step of the front of accuracy and FLOPs, and whether the data show it."""
    standings = findings.confidence.standings(FLOPS)
    flops = findings.table[FLOPS]
    rows = []
    for name in findings.fronts["accuracy and FLOPs"]:
        standing = standings[name]
        if standing.rival is None:
            continue
        rows.append(
            [
                f"{findings.names[standing.rival]} → {findings.names[name]}",
                f"{flops[name] / flops[standing.rival]:.2f}",
                verdict(standing.comparison),
            ]
        )
    if not rows:
        return ""
    text = "What each step up the front buys, and whether the data show it:"
    return _paragraph(text) + _table(
        ["step", "times the FLOPs", "accuracy gained (95 % interval)"], rows, texts=(0, 2)
    )


def _three(findings: Findings) -> str:
    front = findings.fronts["accuracy, FLOPs and latency"]
    if not front:
        return _paragraph("No latency was measured, so there are two objectives.")
    names = ", ".join(findings.names[name] for name in front)
    number = counted(len(front), "configuration")
    text = f"{number} that no other beats in accuracy, FLOPs and latency at once: {names}."
    others = [name for name in front if name not in findings.fronts["accuracy and FLOPs"]]
    if others:
        names = ", ".join(findings.names[name] for name in others)
        text += f" Latency alone puts these beside the front of accuracy and FLOPs: {names}."
    return (
        _paragraph(text)
        + _paragraph(
            "Means alone decide here; the section above says which differences the data show.", quiet=True
        )
        + _wide(_chart(page_figures.three_objectives(findings), "three"))
    )


def _configurations(findings: Findings, where: Where) -> str:
    recorded, table = findings.recorded, findings.table
    accuracy = recorded.accuracy
    test = accuracy.replace("valid/", "test/", 1)
    titles = [
        "network", "λ", "seeds", "validation", "95 % interval", "± seeds", "test", "MFLOPs", "parameters",
        "p50 ms", "front", "run",
    ]  # fmt: skip
    rows, classes = [], []
    best_runs = _best_runs(findings)
    for key, row in table.iterrows():
        name = str(key)
        spread = findings.confidence.spread(name)
        rows.append(
            [
                findings.names[name],
                str(row["tradeoffs"]),
                str(row["seeds"]),
                f"{spread.mean:.4f}",
                "-" if spread.method == "none" else f"{spread.low:.4f} to {spread.high:.4f}",
                _figure(spread.deviation, ".4f"),
                _figure(row.get(test, math.nan), ".4f"),
                f"{row[FLOPS] / 1e6:.2f}",
                _figure(row.get("params", math.nan), ",.0f"),
                _figure(row.get(LATENCY, math.nan), ".3f"),
                _chips(findings, name),
                _run_link(best_runs[name], where),
            ]
        )
        classes.append("front" if row["pareto"] or row["pareto_latency"] else "")
    text = (
        f"Means over seeds, cheapest first. Validation is {chart_labels(findings).accuracy_title}; test "
        "figures were looked at afterwards and chose nothing. The run is that of the seed that did best on "
        "validation."
    )
    return _paragraph(text) + _table(titles, rows, texts=(0, 1, 2, 10, 11), raw=(10, 11), classes=classes)


def _best_runs(findings: Findings) -> dict[str, str]:
    frame, accuracy = findings.recorded.frame, findings.recorded.accuracy
    order = frame.sort_values([accuracy, "seed", "tradeoff"], ascending=[False, True, True], kind="stable")
    best = order.drop_duplicates("architecture_id").set_index("architecture_id")["trial_id"]
    return {str(name): str(run_id) for name, run_id in best.items()}


def _run_link(run_id: str, where: Where) -> str:
    address = where(run_id)
    shown = f"<code>{html.escape(run_id)}</code>"
    return f'<a href="{html.escape(address)}">{shown}</a>' if address else shown


def _chips(findings: Findings, name: str) -> str:
    """On which fronts a configuration is, and how surely."""
    shown = {"pareto": "FLOPs", "pareto_latency": "latency"}
    chips = []
    for flag, cost in COSTS.items():
        if cost not in findings.recorded.frame:
            continue
        standing = findings.confidence.standings(cost).get(name)
        if standing is None or (not standing.on_front and standing.decided):
            continue
        kind = "sure" if standing.decided else "unsure"
        text = (
            shown[flag] if standing.on_front else f"not told apart from {findings.names[str(standing.rival)]}"
        )
        text += "?" if standing.on_front and not standing.decided else ""
        chips.append(f'<span class="chip {kind}">{html.escape(text)}</span>')
    return " ".join(dict.fromkeys(chips))


def _lambdas(findings: Findings) -> str:
    frame = findings.recorded.frame
    if frame["tradeoff"].nunique() == 1:
        return _paragraph("All trials had one λ, so nothing can be said of what it does.")
    chart = _chart(page_figures.what_lambda_does(findings), "lambda")
    if not findings.lambdas:
        text = f"{counted(frame['tradeoff'].nunique(), 'value')} of λ, each trial a point."
        return _paragraph(text) + chart
    rows = [
        [
            f"{row.tradeoff:g}",
            ", ".join(f"{findings.names[name]} ({number})" for name, number in row.architectures.items()),
            f"{row.spread.mean:.4f}",
            "-" if row.spread.method == "none" else f"{row.spread.low:.4f} to {row.spread.high:.4f}",
            f"{row.flops / 1e6:.2f}",
            "" if row.against_first is None else verdict(row.against_first),
        ]
        for row in findings.lambdas
    ]
    first = f"{findings.lambdas[0].tradeoff:g}"
    text = (
        "Accuracy and FLOPs of what each λ derived, means over its trials (the paper's Figure 4). A search "
        "that works gives up FLOPs as λ grows, and accuracy only late."
    )
    titles = [
        "λ",
        "derived (trials)",
        "validation",
        "95 % interval",
        "mean MFLOPs",
        f"accuracy against λ {first}",
    ]
    return _paragraph(text) + chart + _table(titles, rows, texts=(1, 5))


def _growth(findings: Findings) -> str:
    if not any(len(shares) for shares in findings.growth.values()):
        return _paragraph("All trials achieved the same, so there is no area to speak of.")
    text = (
        "The share of the final hypervolume that had been reached as each trial ended: a curve that has been "
        "flat for long says that more trials are unlikely to help. Means are over the seeds that had "
        "finished by then, so a curve may fall when a later seed is worse."
    )
    return _paragraph(text) + _chart(page_figures.hypervolume_growth(findings), "growth")


def _importances(findings: Findings) -> str:
    parts = []
    silences = {result: own.silence for result, own in findings.importances.items() if own.silence}
    for silence in dict.fromkeys(silences.values()):
        results = " and ".join(result for result, own in silences.items() if own == silence)
        parts.append(_paragraph(f"Of {results}: {silence}"))
    if len(silences) < len(findings.importances):
        text = (
            "Shares of the variation between trials that fANOVA attributes to each setting. They always sum "
            "to 100 %, so each is set beside the most that it got when the results were shuffled "
            f"{SHUFFLES} times (red): a grey bar is not told apart from chance."
        )
        parts += [_paragraph(text), _chart(page_figures.importance_bars(findings.importances), "importance")]
        if len(findings.recorded.frame) < 3 * FEWEST_TRIALS:
            number = counted(len(findings.recorded.frame), "trial")
            parts.append(_paragraph(f"From {number} this is a hint, no more.", quiet=True))
    return "".join(parts)


def _reading(findings: Findings, where: Where) -> str:
    recorded = findings.recorded
    sentences = [
        "A configuration is an architecture; its figures are means over its retrainings, one per seed, "
        "however many trials share them. Its interval is Student's over seeds, or, with one seed, a "
        "bootstrap over users.",
        "Two configurations are compared user by user: what both earned from the same users, averaged over "
        "seeds, 10,000 times with users drawn anew. Where ranks were not kept, by Student's interval of the "
        "differences of equal seeds. Every comparison is at 95 % by itself: of twenty equal pairs one is "
        "told apart by chance.",
        "Everything that chooses here goes by validation; test figures are shown beside it.",
        *recorded.notes,
    ]
    parts = [_paragraph(sentence) for sentence in sentences]
    if recorded.ways:
        parts.append(_paragraph("The networks were trained in several ways, which are kept apart:"))
        rows = [[f"way {number}", way] for number, way in enumerate(recorded.ways, start=1)]
        parts.append(_table(["", "settings"], rows, texts=(0, 1)))
    rows = [[sweep.name, sweep.status.lower(), _run_link(sweep.run_id, where)] for sweep in recorded.sweeps]
    parts.append(_table(["sweep", "status", "run"], rows, texts=(0, 1, 2), raw=(2,)))
    return "".join(parts)


def _figure(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    texts: Sequence[int] = (),
    raw: Sequence[int] = (),
    classes: Sequence[str] = (),
) -> str:
    """A table; columns in `texts` stand left, those in `raw` are HTML already."""

    def cell(tag: str, column: int, value: str) -> str:
        names = [name for name, meant in (("text", column in texts), ("name", column == 0)) if meant]
        shown = value if column in raw and tag == "td" else html.escape(value)
        kind = f' class="{" ".join(names)}"' if names else ""
        return f"<{tag}{kind}>{shown}</{tag}>"

    head = "".join(cell("th", column, title) for column, title in enumerate(titles))
    body = []
    for number, row in enumerate(rows):
        kind = f' class="{classes[number]}"' if classes and classes[number] else ""
        body.append(
            f"<tr{kind}>" + "".join(cell("td", column, value) for column, value in enumerate(row)) + "</tr>"
        )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f"<div class='scroll'>{table}</div>"
