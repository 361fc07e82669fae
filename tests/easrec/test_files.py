import errno
import json
import stat

import pytest

from easrec.errors import DiskFullError, InputError
from easrec.files import read_json, remove_unfinished, what_is_at, write_atomically, write_json


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.parquet"
    path.write_text("old")

    def fail(temporary):
        assert temporary.suffix == ".parquet"
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_atomically(path, lambda temporary: temporary.write_text("one"))

    def write(temporary):
        temporary.write_text("two")
        assert path.read_text() == "one"

    write_atomically(path, write)
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


def test_json_round_trips_and_refuses_what_json_cannot_hold(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"b": [1, 2.5], "a": None})
    assert read_json(path) == {"b": [1, 2.5], "a": None}
    assert json.loads(path.read_text()) == read_json(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert read_json(path) == {"b": [1, 2.5], "a": None}


def test_what_is_at_a_path_is_told_or_why_it_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    assert what_is_at(tmp_path) == "directory"
    assert what_is_at(tmp_path / "file") == "file"
    assert what_is_at(tmp_path / "none") == what_is_at(tmp_path / "file" / "below") == "nothing"
    with pytest.raises(InputError, match=r"cannot be looked at \(File name too long\); check the path"):
        what_is_at(tmp_path / ("n" * 300))
    with pytest.raises(InputError, match="null"):
        what_is_at("a\0b")


class RustError(Exception):
    """As safetensors has one: not an OSError."""


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the quota is used up"),
        (RustError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("write failed: File too large"), "files may not be so large here"),
    ],
)
def test_a_disk_without_room_is_said_with_the_file(tmp_path, raised, reason):
    def fail(temporary):
        temporary.write_text("half")
        raise raised

    path = tmp_path / "file.pt"
    with pytest.raises(DiskFullError, match=rf"^{path} cannot be written: {reason}; make room there$"):
        write_atomically(path, fail)
    assert list(tmp_path.iterdir()) == []

    def hide(temporary):
        try:
            fail(temporary)
        finally:
            raise RuntimeError("unexpected position")  # torch closes its archive in vain

    with pytest.raises(DiskFullError, match=reason):
        write_atomically(path, hide)


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    class Killed(BaseException):
        pass

    def half(temporary):
        temporary.write_text("half")
        names.append(temporary.name)
        (tmp_path / "copy").write_text(temporary.name)
        raise Killed

    names = []
    with pytest.raises(Killed):
        write_atomically(tmp_path / "file.txt", half)
    (tmp_path / names[0]).write_text("half")  # as if the process had not lived to remove it
    (tmp_path / f"{names[0]}-journal").touch()
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_json_cut_short_is_refused_by_name(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"value": 1})
    path.write_bytes(path.read_bytes()[:8])
    with pytest.raises(InputError, match=rf"^{path} is no JSON \(.*\): it has been cut short or changed$"):
        read_json(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is no JSON"):
        read_json(path)
