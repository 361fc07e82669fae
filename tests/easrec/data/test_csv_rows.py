"""Own logs with lines that cannot be used: refused, or skipped and counted."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easrec.data.interactions import load_interactions
from easrec.data.logs import Malformed
from easrec.errors import InputError

HEADER = "user_id,item_id,timestamp\n"


def load(path, text, **options):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_interactions(path, min_user_interactions=1, malformed="skip", **options)


def rows_of(log):
    users, items = log.user_ids[log.users].tolist(), log.item_ids[log.items].tolist()
    return list(zip(users, items, log.timestamps.tolist(), strict=True))


GOOD = st.tuples(st.sampled_from("ab"), st.sampled_from("pqr"), st.integers(0, 99)).map(
    lambda row: ",".join(map(str, row))
)
BAD = st.sampled_from(
    ["a,p", "a,p,1,2", "x", ",p,1", "a,,1", "a,p,", "a,p,soon", "a,p,nan", '"b\nb",p,1', ",,,,"]
)


@settings(deadline=None)
@given(lines=st.lists(st.one_of(GOOD, GOOD, BAD), max_size=30), good=GOOD)
def test_skipping_is_what_a_plain_reader_would_do(tmp_path_factory, lines, good):
    lines = [*lines, good]
    text = HEADER + "\n".join(lines) + "\n"
    log = load(tmp_path_factory.mktemp("log") / "own.csv", text)
    expected, bad = [], []
    for number, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        usable = len(row) == 3 and all(row) and row[2].isdecimal() and "\n" not in row[0]
        if number > 1:
            (expected if usable else bad).append((number, row))
    in_order = sorted(expected, key=lambda entry: (entry[1][0], int(entry[1][2])))
    assert rows_of(log) == [(user, item, int(time)) for _, (user, item, time) in in_order]
    assert (log.malformed.count, log.malformed.first_line) == (len(bad), bad[0][0] if bad else 0)
    assert log.timestamps.dtype.kind == "i"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a,p", "'a,p' has not 3 fields but 2"),
        (",p,3", "column 'user_id' is empty"),
        ("a,p,2024-01-02", "column 'timestamp' holds '2024-01-02', which is no time"),
        ('"a\nb",p,3', "column 'user_id' holds a line break"),
    ],
)
def test_the_first_malformed_line_is_told_with_its_fault(tmp_path, line, reason):
    text = HEADER + f"a,p,1\n\nb,p,2\n{line}\na,q,5\nx\n"
    log = load(tmp_path / "own.csv", text)
    assert rows_of(log) == [("a", "p", 1), ("a", "q", 5), ("b", "p", 2)]
    assert log.malformed == Malformed(2, 4, reason)
    assert str(log.malformed) == f"2 malformed lines, the first is line 4: {reason}"
    with pytest.raises(InputError):
        load_interactions(tmp_path / "own.csv")


def test_bytes_that_are_no_utf_8_spoil_their_line_alone(tmp_path):
    text = HEADER.encode() + "é,p,1\n".encode() + b"\xe9,p,2\n\xff,x\n" + "é,q,3\n".encode()
    log = load(tmp_path / "own.csv", text)
    assert rows_of(log) == [("é", "p", 1), ("é", "q", 3)]
    assert log.malformed.count == 2
    assert log.malformed.first_line == 3
    assert log.malformed.reason == "column 'user_id' holds bytes that are no UTF-8"


def test_the_character_for_damage_is_a_character_in_a_sound_file(tmp_path):
    log = load(tmp_path / "own.csv", HEADER + "\ufffd,p,1\n")
    assert rows_of(log) == [("\ufffd", "p", 1)]
    assert log.malformed == Malformed()


def test_an_atomic_file_has_no_quotes(tmp_path):
    text = 'user_id:token\titem_id:token\ttimestamp:float\na"\tp\t1.5\na"\tq\na"\tr\t2\n'
    log = load(tmp_path / "own.inter", text)
    assert rows_of(log) == [('a"', "p", 1.5), ('a"', "r", 2.0)]
    assert log.malformed == Malformed(1, 3, "'a\"\\tq' has not 3 fields but 2")


def test_a_file_without_a_usable_line_says_why(tmp_path):
    with pytest.raises(
        InputError, match=r"no rows that can be used \(2 malformed lines, the first is line 2: 'x'"
    ):
        load(tmp_path / "own.csv", HEADER + "x\ny\n")


def test_malformed_lines_in_later_blocks_keep_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("easrec.data.csv_rows._BLOCK_BYTES", 1 << 12)
    lines = [f"u{number % 97},i{number % 89},{number}" for number in range(2, 9000)]
    for number in (8000, 6001, 5000):
        lines[number - 2] = "broken"
    lines[7000 - 2] = "a,b,never"
    log = load(tmp_path / "own.csv", HEADER + "\n".join(lines))
    assert log.malformed == Malformed(4, 5000, "'broken' has not 3 fields but 1")
    lines[5000 - 2] = lines[6001 - 2] = "a,b,1"
    log = load(tmp_path / "own.csv", HEADER + "\n".join(lines))
    assert log.malformed.first_line == 7000


def test_malformed_parts_of_a_file_add_up():
    one, other = Malformed(2, 9, "late"), Malformed(3, 4, "early")
    assert one + other == other + one == Malformed(5, 4, "early")
    assert one + Malformed() == Malformed() + one == one
    assert str(Malformed()) == "no malformed line"
    assert str(Malformed(1, 2, "why")) == "1 malformed line, it is line 2: why"
