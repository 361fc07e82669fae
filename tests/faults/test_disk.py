"""Full disks, and files cut short: what is not whole is never read as if it were, and a sentence says so."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from easrec.errors import InputError
from easrec.models.architecture import Architecture, CandidateSpace
from easrec.models.saving import load_network, save_network
from easrec.models.transformer import SequentialRecommender
from easrec.nas.supernet import Supernet
from easrec.training import load_checkpoint, save_checkpoint
from sweeps.storage_error import StorageError
from sweeps.store import RESULT, Store
from tests.faults.sweep_process import (
    assert_nothing_half_written,
    assert_recorded_once,
    assert_same_results,
    command_to_go_on,
    entries,
    epochs_done,
    finished,
    mlflow_runs,
    running,
    stopped_holder,
    sweep_words,
    training,
)


def lengths(size: int) -> list[int]:
    """Where a file of that size is cut: at its ends, and at many places between them."""
    return sorted({*range(0, min(size, 40)), *range(0, size, max(size // 60, 1)), *range(size - 40, size)})


def test_a_checkpoint_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"model": {"weight": torch.rand(50, 50)}, "epochs": [{"epoch": 1}]}, "me")
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    for length in lengths(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(
            InputError, match=r"the checkpoint .* cannot be read .*; delete it to begin again"
        ):
            load_checkpoint(tmp_path, "me")
    path.write_bytes(whole)
    assert load_checkpoint(tmp_path, "me") is not None


def test_weights_cut_short_anywhere_are_refused(tmp_path: Path) -> None:
    save_network(SequentialRecommender(Architecture(8, 16, 1, 1), 13, 5, 0.0), tmp_path)
    path = tmp_path / "weights.safetensors"
    whole = path.read_bytes()
    for length in lengths(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"the weights in .* do not fit"):
            load_network(tmp_path)
    Supernet(CandidateSpace(8, 16, 1, 1, (0.0,), (0.0,)), 13, 5, 0.0).save(tmp_path / "supernet.safetensors")
    path = tmp_path / "supernet.safetensors"
    whole = path.read_bytes()
    for length in lengths(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="is not a supernet"):
            Supernet.load(path)


def test_a_result_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.get_or_compute("search", "key", lambda workspace: {"search_s": 1.5})
    path = tmp_path / "search" / "key" / RESULT
    whole = path.read_bytes().rstrip()
    for length in lengths(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(StorageError, match=r"result\.json is no JSON .*; delete it to have it made"):
            store.entry("search", "key").result()


def test_a_sweep_whose_checkpoint_was_cut_short_says_so_and_begins_that_stage_again_once_it_is_deleted(
    undisturbed: Path, options: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "sweep"
    with running(sweep_words(options, output), output) as sweep:
        entry = sweep.until(training(output, "search", epochs=3), "search")
        stopped_holder(sweep, entry)
        epoch = epochs_done(entry)
    assert epoch >= 3
    checkpoint = entry / "checkpoints" / "checkpoint.pt"
    with checkpoint.open("rb+") as file:
        file.truncate(checkpoint.stat().st_size // 2)
    said = finished(sweep_words(options, output, resume=True), output, status=1)
    # Said when it happens, and again at the end.
    named = re.findall(r"failed: the checkpoint (\S+) cannot be read \(.*\); delete it to begin again", said)
    assert set(named) == {str(checkpoint)}
    assert len(entries(output, "retrain")) >= 1, "the other trials have finished"
    checkpoint.unlink()
    finished(sweep_words(options, output, resume=True), output)
    assert_same_results(output, undisturbed)
    assert_recorded_once(output)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with some MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_disk_that_fills_up_ends_a_sweep_in_a_sentence_and_room_lets_it_go_on(
    small_disk: Path, undisturbed: Path, options: list[str]
) -> None:
    output, filler = small_disk / "sweep", small_disk / "filler"
    with running(sweep_words(options, output), output) as sweep:
        sweep.until(training(output, "search", epochs=3), "search")
        fill(filler)
        status, said, errors = sweep.end()
    assert status == 1, said + errors
    assert "Traceback" not in said + errors, said + errors
    assert "cannot be written: the disk is full; make room there" in said
    for path in output.rglob("*.json"):
        json.loads(path.read_text())
    for path in output.rglob("checkpoint.pt"):
        assert torch.load(path, weights_only=True)["owner"]
    assert not list(output.rglob(".unfinished-*"))
    filler.unlink()
    finished(command_to_go_on(said), output)
    assert_same_results(output, undisturbed)
    assert_recorded_once(output)
    assert len(mlflow_runs(output)) == 4
    assert_nothing_half_written(output)


def fill(path: Path) -> None:
    """Fill the disk that a file is to lie on."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from easrec.errors import DiskFullError
from easrec.training import save_checkpoint
directory = Path(sys.argv[1])
save_checkpoint(directory, {"weights": torch.ones(10)}, "me")
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save_checkpoint(directory, {"weights": torch.ones(1_000_000)}, "me")
except DiskFullError as error:
    print(error)
"""


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        f"{tmp_path}/checkpoint.pt cannot be written: files may not be so large here; make room there\n"
    )
    state = load_checkpoint(tmp_path, "me")
    assert state is not None and len(state["weights"]) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
