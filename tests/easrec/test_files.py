import json
import stat

import pytest

from easrec.errors import InputError
from easrec.files import read_json, what_is_at, write_atomically, write_json


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
