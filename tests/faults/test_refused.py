"""What cannot go well is refused in a sentence before anything is started."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.sweep_process import (
    PATIENCE_S,
    assert_recorded_once,
    assert_same_results,
    running,
    sweep_words,
    training,
)


def refusal(words: Sequence[str]) -> str:
    """The one line that a command ends with which is refused."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU cannot run two trials at once")
def test_a_second_sweep_in_the_same_directory_is_refused_and_the_first_gives_what_one_trial_at_a_time_gives(
    undisturbed: Path, options: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "sweep"
    with running(sweep_words(options, output), output) as sweep:
        sweep.until(training(output, "warm", epochs=1), "warm-up")
        assert f"{output} holds a sweep already" in refusal(sweep_words(options, output))
        assert refusal(sweep_words(options, output, resume=True)) == (
            f"lambda_sweep.py: another sweep is running in {output}; wait for its end, or choose another "
            "--output\n"
        )
        status, said, errors = sweep.end()
    assert status == 0, said + errors
    # It is also that sweep which ran several trials at once.
    assert "3 trials, 1 at once" not in said and "3 trials, " in said
    assert_same_results(output, undisturbed)
    assert_recorded_once(output)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["--cpus-per-trial", "4000"], r"--cpus-per-trial 4000 is more than the \d+ CPUs that Ray has"),
        (["--device", "cuda", "--gpus-per-trial", "64"], r"--gpus-per-trial 64 is more than the \d+ GPUs"),
    ],
)
def test_more_than_the_machine_has_is_refused_before_anything_starts(
    asked: list[str], sentence: str, options: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "sweep"
    assert re.match(
        f"lambda_sweep.py: {sentence}.*; ask for fewer", refusal(sweep_words([*options, *asked], output))
    )
    assert not output.exists()
