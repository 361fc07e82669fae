"""What a report says in words: shared by the page and the terminal."""

import math

from sweeps.budget import FLOPS, Answer
from sweeps.choice import LATENCY
from sweeps.confidence import Comparison, Spread
from sweeps.findings import Findings
from sweeps.panels import ChartLabels
from sweeps.summary import counted

_OVER = {"seeds": "over {seeds} (Student)", "users": "over users (bootstrap), one seed"}


def chart_labels(findings: Findings) -> ChartLabels:
    """What charts say about the trials."""
    recorded = findings.recorded
    return ChartLabels(
        dataset=recorded.dataset,
        max_length=recorded.max_length,
        threads=recorded.threads,
        accuracy=recorded.accuracy,
    )


def interval_text(spread: Spread) -> str:
    """A mean with its interval and what that is over.

    >>> interval_text(Spread(0.12, (0, 1, 2), 0.01, 0.1, 0.14, "seeds"))
    '0.1200, 95 % interval 0.1000 to 0.1400 over 3 seeds (Student)'
    """
    if spread.method == "none":
        return f"{spread.mean:.4f}, of {counted(len(spread.seeds), 'seed')} and without an interval"
    over = _OVER[spread.method].format(seeds=counted(len(spread.seeds), "seed"))
    return f"{spread.mean:.4f}, 95 % interval {spread.low:.4f} to {spread.high:.4f} {over}"


def verdict(comparison: Comparison | None) -> str:
    """What the data say of a difference.

    >>> verdict(Comparison(0.01, 0.002, 0.018, "users", 3))
    '+0.0100 (+0.0020 to +0.0180): told apart'
    """
    if comparison is None:
        return ""
    if comparison.method == "none":
        return f"{comparison.difference:+.4f}: nothing to judge it by"
    told = "told apart" if comparison.separated else "not told apart"
    if comparison.separated and comparison.num_seeds == 1:
        told += ", as trained with one seed"
    return f"{comparison.difference:+.4f} ({comparison.low:+.4f} to {comparison.high:+.4f}): {told}"


def cost_text(findings: Findings, name: str) -> str:
    """`2.00 MFLOPs, 0.27 ms` of a configuration."""
    latency_ms = float(findings.table[LATENCY][name]) if LATENCY in findings.table else math.nan
    latency = "latency not measured" if math.isnan(latency_ms) else f"{latency_ms:.3f} ms"
    return f"{findings.table[FLOPS][name] / 1e6:.2f} MFLOPs, {latency}"


def summary(findings: Findings) -> list[str]:
    """What there is to know, in a few sentences."""
    recorded, table = findings.recorded, findings.table
    frame = recorded.frame
    sentences = [
        f"{counted(len(frame), 'finished trial')} of {counted(len(recorded.sweeps), 'sweep')} led to "
        f"{counted(len(table), 'configuration')} in {counted(findings.num_retrainings, 'retraining')}, over "
        f"{counted(frame['seed'].nunique(), 'seed')}"
        + (f"; {counted(recorded.num_failed, 'trial')} failed" if recorded.num_failed else "")
        + (f"; {recorded.num_stopped} were stopped early" if recorded.num_stopped else "")
        + (f"; {recorded.num_unfinished} failed or were refused" if recorded.num_unfinished else "")
        + ".",
        _front_sentence(findings),
        f"The knee, where more FLOPs stop paying, is {findings.names[findings.knee]}: "
        f"{interval_text(findings.confidence.spread(findings.knee))}; {cost_text(findings, findings.knee)}.",
        _best_sentence(findings),
    ]
    if findings.num_ranked < findings.num_retrainings:
        sentences.append(
            f"Ranks were kept of {findings.num_ranked} of {counted(findings.num_retrainings, 'retraining')}: "
            "the others are compared by their seeds alone, which tells less. --rank-again ranks anew."
        )
    return sentences


def _front_sentence(findings: Findings) -> str:
    front = findings.fronts["accuracy and FLOPs"]
    text = f"{counted(len(front), 'configuration')} on the front of accuracy and FLOPs"
    undecided = findings.undecided
    if len(front) == 1:
        return f"One configuration, {findings.names[front[0]]}, beats all others or costs less: the front."
    if not undecided:
        return f"{text}; the data tell each apart from its cheaper neighbour."
    names = ", ".join(findings.names[name] for name in undecided)
    return f"{text}; {len(undecided)} of them the data do not tell apart from the cheaper neighbour: {names}."


def _best_sentence(findings: Findings) -> str:
    accuracy = findings.recorded.accuracy
    best = str(findings.table[accuracy].idxmax())
    if best == findings.knee:
        return "It is the most accurate of all too."
    compared = findings.confidence.compare(best, findings.knee)
    return (
        f"The most accurate is {findings.names[best]}: {interval_text(findings.confidence.spread(best))}; "
        f"{cost_text(findings, best)}. Against the knee: {verdict(compared)}."
    )


def answer_lines(findings: Findings, answer: Answer, where: str) -> list[str]:
    """What fits a budget, in sentences; `where` is the run of the best one's network."""
    if answer.best is None:
        return [answer.refusal]
    best = answer.best
    # Networks that a short name does not tell apart are called by their ids already.
    name = best if findings.names[best] == best else f"{findings.names[best]} ({best})"
    lines = [
        f"For {answer.budget} the best network known is {name}: "
        f"{chart_labels(findings).accuracy_title} "
        f"{interval_text(findings.confidence.spread(best))}; {cost_text(findings, best)}.",
        f"Its run: {where}",
    ]
    if answer.num_fitting == 1:
        lines.append("No other configuration that is known fits.")
    elif not answer.equals:
        others = answer.num_fitting - 1
        which = "the other one that fits" if others == 1 else f"the {others} others that fit"
        lines.append(f"The data tell it apart from {which}.")
    for name, comparison in answer.equals.items():
        lines.append(
            f"The data do not tell it apart from {findings.names[name]} ({cost_text(findings, name)}): "
            f"{verdict(comparison)}."
        )
    return lines
