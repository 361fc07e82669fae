"""What the networks of recorded trials earned from each user: as they were kept, or ranked anew.

One trial of each retraining is enough: those that share it share its ranks.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from easrec.errors import InputError
from easrec.models.saving import load_network
from sweeps.recorded import Recorded
from sweeps.source import SweepDirectory, SweepRun, SweepSource
from sweeps.summary import counted
from sweeps.user_ranks import RANKS, Gains, gains_of, rank_metrics, rank_table, read_gains

if TYPE_CHECKING:
    from mlflow import MlflowClient

_NETWORK_FILES = ("network.json", "weights.safetensors")
_TOLERANCE = 0.002
"""How far a figure may be from the recorded one: another machine may rank near ties otherwise."""


class RecordedFiles:
    """Files among the artifacts of runs, fetched when they are asked for."""

    def __init__(self, client: "MlflowClient", scratch: Path, output: Path | None = None) -> None:
        """Prepare.

        Args:
            client: of the store that has the runs.
            scratch: an empty directory for downloads.
            output: the directory of a sweep; where it was moved, MLflow looks for its artifacts in vain.
        """
        self._client = client
        self._scratch = scratch
        self._output = output

    def fetch(self, run_id: str, name: str) -> Path | None:
        """Where a file of a run lies on this machine; None where the run has none of that name."""
        from mlflow.exceptions import MlflowException

        if self._output is not None:
            path = self._output / "artifacts" / run_id / "artifacts" / name
            if path.is_file():
                return path
        try:
            if name not in {file.path for file in self._client.list_artifacts(run_id)}:
                return None
            folder = self._scratch / run_id
            folder.mkdir(parents=True, exist_ok=True)
            return Path(self._client.download_artifacts(run_id, name, str(folder)))
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"run {run_id} has {name}, which cannot be read ({reason})") from error


def kept_gains(recorded: Recorded, files: RecordedFiles) -> dict[str, Gains]:
    """By trial_id, what the networks of trials earned, of all trials whose retraining kept its ranks."""
    found: dict[str, Gains] = {}
    for names in _retrainings(recorded):
        for name in names:
            path = files.fetch(name, RANKS)
            gains = None if path is None else read_gains(path, recorded.accuracy)
            if gains is not None:
                found |= dict.fromkeys(names, gains)
                break
    return found


def ranked_again(
    client: "MlflowClient",
    recorded: Recorded,
    known: dict[str, Gains],
    files: RecordedFiles,
    *,
    output: Path | None,
    log: Path | None,
    say: Callable[[str], None],
) -> dict[str, Gains]:
    """Rank the targets with the networks of retrainings that kept no ranks.

    Args:
        client: of the store that has the runs.
        recorded: the trials.
        known: what `kept_gains` found.
        files: of the runs.
        output: the directory of the sweep, where that was named.
        log: where the sweeps' own log lies now, if it is not where it was.
        say: prints a line.

    Returns:
        By trial_id, what `known` lacks.

    Raises:
        InputError: the data cannot be read or are not those of the trials, a network is missing, or its
            accuracy is not the recorded one.
    """
    missing = [names for names in _retrainings(recorded) if names[0] not in known]
    found: dict[str, Gains] = {}
    if not missing:
        return found
    say(f"ranking anew with {counted(len(missing), 'network')}")
    frame = recorded.frame.set_index("trial_id")
    with tempfile.TemporaryDirectory(prefix="easrec-report-") as scratch:
        # All sweeps of a report have the same data.
        data = _source(client, recorded, Path(scratch), output=output, log=log).data.split
        for names in missing:
            network = _network(names, files)
            model = load_network(network)
            table = rank_table(model.scores, data, max_length=model.max_length)
            value = rank_metrics(table)[recorded.accuracy]
            was = float(frame[recorded.accuracy][names[0]])
            if abs(value - was) > _TOLERANCE:
                raise InputError(
                    f"the network of run {names[0]} has {recorded.accuracy} {value:.4f}, but {was:.4f} was "
                    "recorded: its weights are not the recorded ones; leave out --rank-again"
                )
            gains = gains_of(table, recorded.accuracy)
            assert gains is not None  # `rank_metrics` has given the metric
            found |= dict.fromkeys(names, gains)
    return found


def _retrainings(recorded: Recorded) -> Iterator[list[str]]:
    """The trials of each retraining: equal accuracies of one configuration and seed are of one."""
    for _, own in recorded.frame.groupby(["architecture_id", "seed", recorded.accuracy]):
        yield own["trial_id"].tolist()


def _source(
    client: "MlflowClient", recorded: Recorded, scratch: Path, *, output: Path | None, log: Path | None
) -> SweepSource:
    if output is not None:
        return SweepDirectory(output, log=log)
    return SweepRun(client, client.get_run(recorded.sweeps[0].run_id), scratch, log=log)


def _network(names: list[str], files: RecordedFiles) -> Path:
    """The directory of the network of one of the trials that share it."""
    for name in names:
        paths = [files.fetch(name, file) for file in _NETWORK_FILES]
        if paths[0] is not None and paths[1] is not None:
            return paths[0].parent
    raise InputError(
        f"run {names[0]} has no network among its artifacts that could be ranked with; if the sweep's "
        "directory has been moved, name it by --output, else leave out --rank-again"
    )
