"""The directory of a sweep: refused in one sentence, and left as it was found unless a sweep began."""

import shutil
from pathlib import Path

import pytest

from easrec.errors import InputError
from sweeps.config import SweepConfig
from sweeps.output import identify, locked_output

FACTS = {"data checksum": "abc"}


def refuse(path: Path, message: str, *, resume: bool) -> None:
    with pytest.raises(InputError, match=message), locked_output(path, resume=resume):
        pass


def test_resuming_what_never_began_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "none", r"--resume: \S+none does not exist; name the directory of a sweep", resume=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "--resume: .*empty is empty", resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    refuse(tmp_path / "full", "--resume: .*full holds files but no sweep", resume=True)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("there_before", [False, True])
def test_what_ends_before_a_sweep_began_leaves_nothing(tmp_path: Path, there_before: bool) -> None:
    path = tmp_path / "a" / "b"
    if there_before:
        path.mkdir(parents=True)
    for end in (InputError("too few users"), KeyboardInterrupt()):
        with pytest.raises(type(end)), locked_output(path, resume=False):
            raise end
        assert list(tmp_path.rglob("*")) == ([path.parent, path] if there_before else [])


def test_a_directory_that_was_taken_away_does_not_hide_how_the_sweep_ended(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked_output(tmp_path / "a" / "b", resume=False) as path:
        shutil.rmtree(path.parent)
        raise KeyboardInterrupt


def test_a_sweep_that_began_and_files_of_others_are_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError), locked_output(tmp_path / "sweep", resume=False) as path:
        identify(path, SweepConfig(), FACTS)
        raise InputError("the cluster is gone")
    with locked_output(tmp_path / "sweep", resume=True):
        pass
    with locked_output(tmp_path / "noted", resume=False) as path:
        (path / "notes.txt").touch()
    assert [entry.name for entry in (tmp_path / "noted").iterdir()] == ["notes.txt"]


def test_paths_that_cannot_be_used_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(tmp_path / ("n" * 300), r"cannot be (used|looked at).*File name too long", resume=False)
    (tmp_path / "file").touch()
    refuse(tmp_path / "file", "is a file; choose a directory", resume=False)
    refuse(tmp_path / "file" / "below", "cannot be used: Not a directory; choose another", resume=False)

    def forbidden(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    refuse(tmp_path, "cannot be used: Permission denied; choose another --output", resume=False)


def test_what_a_killed_sweep_had_begun_to_write_stands_in_nobodys_way(tmp_path: Path) -> None:
    """Killed while it wrote sweep.json, it has left neither a sweep nor anything of a user's."""
    path = tmp_path / "sweep"
    path.mkdir()
    (path / ".unfinished-sweep-abcdefgh.json").write_text("{")
    refuse(path, "--resume: .*sweep is empty", resume=True)
    with locked_output(path, resume=False) as held:
        assert [entry.name for entry in held.iterdir()] == [".lock"]
        identify(held, SweepConfig(), FACTS)
    (path / "sweep.json").write_text("{")
    with (
        pytest.raises(InputError, match=r"sweep\.json is no JSON .*; without it the sweep cannot go on"),
        locked_output(path, resume=True) as held,
    ):
        identify(held, SweepConfig(), FACTS)
