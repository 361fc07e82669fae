"""From an MLflow experiment to a page about it, and to answers on the terminal."""

import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from easrec.errors import InputError
from easrec.files import read_json, write_atomically
from sweeps.addresses import masked, without_credentials
from sweeps.budget import Budget
from sweeps.findings import Findings, find
from sweeps.kept_ranks import RecordedFiles, kept_gains, ranked_again
from sweeps.mlflow_store import EXPERIMENT, quiet, ui_command
from sweeps.output import SWEEP
from sweeps.page import report_page
from sweeps.page_text import answer_lines, summary
from sweeps.recorded import read_experiment
from sweeps.report_config import ReportConfig


def run_report(config: ReportConfig, *, console: Console | None = None) -> int:
    """Write the page that the options ask for and print what it says in short; returns the exit status.

    0: done. 1: done, and no network fits the budget that was asked for.

    Raises:
        InputError: something that the user can put right; no page has been written then.
    """
    config.check()
    console = console or Console(width=None if sys.stdout.isatty() else 120)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    uri = config.store_uri()
    findings = _find(config, uri, say)
    title = f"{config.experiment} on {findings.recorded.dataset}"
    if len(findings.recorded.sweeps) == 1:
        title = f"{findings.recorded.sweeps[0].name} on {findings.recorded.dataset}"

    def where(run_id: str) -> str:
        if not uri.startswith(("http://", "https://")):
            return ""
        return f"{masked(uri).rstrip('/')}/#/experiments/{findings.recorded.experiment_id}/runs/{run_id}"

    page = config.page()
    text = report_page(findings, title=title, where=where)
    try:
        write_atomically(page, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"the page {page} cannot be written: {error.strerror or error}; name another by --to"
        ) from error
    for sentence in summary(findings):
        say(sentence)
    answer = findings.answer
    if answer is not None:
        say("")
        for line in answer_lines(findings, answer, where(answer.trial_id) or answer.trial_id):
            say(line)
        if answer.best is not None and not where(answer.trial_id):
            say(f"To see it:\n  {ui_command(uri)}")
    say(f"\npage: {page.resolve()}")
    return 1 if answer is not None and answer.best is None else 0


def _find(config: ReportConfig, uri: str, say: Callable[[str], None]) -> Findings:
    import requests
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    sweeps, experiment = config.sweeps, config.experiment
    if config.output is not None:
        sweeps = (str(read_json(config.output / SWEEP)["sweep_id"]),)
        experiment = EXPERIMENT
    budget = None
    if config.max_latency_ms is not None or config.max_flops is not None:
        budget = Budget(config.max_latency_ms or math.inf, config.max_flops or math.inf)
    try:
        with (
            quiet("mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store", "alembic"),
            tempfile.TemporaryDirectory(prefix="easrec-report-") as scratch,
        ):
            client = MlflowClient(tracking_uri=uri)
            recorded = read_experiment(client, experiment, sweeps=sweeps, dataset=config.dataset)
            files = RecordedFiles(client, Path(scratch), config.output)
            gains = kept_gains(recorded, files)
            if config.rank_again:
                gains |= ranked_again(
                    client, recorded, gains, files, output=config.output, log=config.data, say=say
                )
    except (MlflowException, requests.RequestException) as error:
        reason = without_credentials(" ".join(str(error).split()), uri)[:300]
        raise InputError(f"MLflow at {masked(uri)} cannot be read ({reason}); check the address") from error
    return find(recorded, gains, budget)
