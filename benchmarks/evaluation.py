"""What the evaluation of all users takes: ours and RecBole's, in one run.

    python benchmarks/evaluation.py

Both rank the validation questions of the same users with networks of one size, in turn, in processes of their
own with the same threads and the same allocator settings. The result is printed and written to the section
"Evaluation" of RESULTS.md. It takes four minutes, most of them RecBole's sampled evaluation.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from peers.client import ALLOCATOR, Entrant, Times, Worker, take_turns
from peers.environment import recbole_python
from peers.inter_file import write_inter
from report import command, conditions, markdown_table, paragraph, verdict, write_section
from script import run_script

from easrec.data.interactions import load_interactions
from easrec.data.sequences import leave_one_out
from easrec.models.architecture import Architecture

HERE = Path(__file__).parent
OTHERS = "RecBole"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Time evaluations of all users."""

    data: str = "ml-100k"
    """Data set by name or path."""
    threads: tuple[int, ...] = (1, 2)
    """CPU threads."""
    rounds: int | None = None
    """Turns of each; by default 10 of the full ranking, and fewer where RecBole takes longer."""
    recbole: Path | None = None
    """Directory of RecBole's environment, see `benchmarks/peers/environment.py`."""
    pip_args: str = ""
    """Passed to pip when that environment is made: --pip-args="--extra-index-url URL"."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is evaluated: networks of hidden 64, inner 256, 2 heads, under one protocol."""

    protocol: str
    max_length: int
    layers: int
    rounds: int
    target: float
    """How many times faster ours should be."""

    @property
    def architectures(self) -> dict[str, Architecture]:
        """Our networks of this size."""
        return {
            "softmax": Architecture(64, 256, self.layers, 2, "softmax", gate_layers=0),
            "linear, gates": Architecture(64, 256, self.layers, 2),
        }

    def __str__(self) -> str:
        return f"`{self.protocol}`, N = {self.max_length}, {self.layers} layers"


CASES = (
    Case("full", 50, 2, 10, 2),
    Case("full", 200, 4, 3, 2),
    Case("uni100", 50, 2, 2, 50),
    Case("pop100", 50, 2, 2, 50),
)

_NOTES = """
Seconds for the {questions} validation questions; hidden 64, inner 256, 2 heads, fresh weights. RecBole's:
`Trainer.evaluate` with its own batches, loader and metrics, prepared beforehand; ours: `evaluate`, the
drawing of negatives included. Our ranks agree with those of a plain path in float64, one question at a
time."""


def run(config: EvaluationConfig) -> None:
    """Time, print and write."""
    python = recbole_python(config.recbole, config.pip_args)
    interactions = load_interactions(config.data)
    questions = len(leave_one_out(interactions).valid.rows)
    rows: list[list[str]] = []
    verdicts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="easrec-evaluation-") as folder:
        write_inter(interactions, Path(folder), "log")
        script = HERE / "peers" / "recbole_evaluation.py"
        most = max(config.threads)
        with (
            Worker([sys.executable, HERE / "evaluation_worker.py", config.data], most) as ours,
            Worker([python, script, folder, "log"], most) as theirs,
        ):
            for case in CASES:
                entrants = _entrants(case, questions, ours, theirs)
                for threads in config.threads:
                    print(f"timing {case}, {threads} thread(s)", file=sys.stderr)
                    for worker in (ours, theirs):
                        worker.ask(do="threads", count=threads)
                    times = take_turns(
                        entrants,
                        rounds=config.rounds or case.rounds,
                        count=1,
                        untimed=0,
                        # A sampled evaluation of RecBole's takes too long for it to matter.
                        untimed_rounds=int(case.protocol == "full"),
                    )
                    rows += _rows(case, threads, times)
                    verdicts += _verdicts(case, threads, times)
            versions = ours.description["versions"] | {"RecBole": theirs.description["versions"]["recbole"]}
    columns = ("", "network", "threads", "s", "least to most", "timed", "times faster than RecBole")
    body = "\n\n".join(
        [
            conditions(command("evaluation.py", config), versions, ALLOCATOR),
            paragraph(_NOTES.format(questions=f"{questions:,}")),
            markdown_table(columns, rows),
            "\n".join(verdicts),
        ]
    )
    print(body)
    write_section("Evaluation", body)


def _entrants(case: Case, questions: int, ours: Worker, theirs: Worker) -> dict[str, Entrant]:
    """Both sides, once they have been found to answer the same questions."""
    key = str(case)
    request = {"max_length": case.max_length, "layers": case.layers, "mode": case.protocol}
    theirs.ask(do="requests", name=key, requests=[request])
    (asked,) = theirs.ask(do="answer", of="questions", requests=key)["answers"]
    if asked != questions:
        raise RuntimeError(f"RecBole has {asked} validation questions and we have {questions}")
    entrants = {OTHERS: Entrant(theirs, "evaluate", key)}
    for name, architecture in case.architectures.items():
        request = {
            "architecture": architecture.to_json(),
            "max_length": case.max_length,
            "protocol": case.protocol,
        }
        ours.ask(do="requests", name=f"{key} {name}", requests=[request])
        ours.ask(do="answer", of="evaluate", requests=f"{key} {name}")  # checks its ranks
        entrants[name] = Entrant(ours, "evaluate", f"{key} {name}")
    return entrants


def _rows(case: Case, threads: int, times: dict[str, Times]) -> list[list[str]]:
    return [
        [
            str(case),
            name if name == OTHERS else f"ours, {name}",
            str(threads),
            f"{of.median:.3g}",
            f"{min(of.all):.3g} to {max(of.all):.3g}",
            str(len(of.all)),
            "" if name == OTHERS else f"{times[OTHERS].ratio(of):.1f}",
        ]
        for name, of in times.items()
    ]


def _verdicts(case: Case, threads: int, times: dict[str, Times]) -> list[str]:
    return [
        verdict(f"{case}, {name}, {threads} thread(s)", times[OTHERS].ratio(of), case.target, "times faster")
        for name, of in times.items()
        if name != OTHERS
    ]


if __name__ == "__main__":
    sys.exit(run_script(run, EvaluationConfig))
