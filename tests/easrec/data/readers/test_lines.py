import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easrec.data.logs import Malformed
from easrec.data.readers import lines
from easrec.data.readers.lines import NUMBER, line_blocks, read_lines
from easrec.data.times import parse_dates
from easrec.errors import InputError

PATTERN = rf"(?P<user>[^,\s]+),(?P<item>{NUMBER}),(?P<time>{NUMBER})"


def read(text: bytes, **options):
    options = {"where": "a file", "what": "user,item,time", "numbers": ("item", "time")} | options
    table, malformed = read_lines(io.BytesIO(text), PATTERN, **options)
    return list(
        zip(*(table.column(name).to_pylist() for name in ("user", "item", "time")), strict=True)
    ), malformed


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=20),
    st.integers(1, 40),
)
def test_blocks_are_all_the_lines_with_their_numbers(texts, block_bytes):
    content = b"\n".join(texts)
    found = []
    for first, block in line_blocks(io.BytesIO(content), block_bytes):
        assert first == len(found) + 1
        found += block.to_pylist()
    assert found == io.BytesIO(content).readlines()


LINE = st.one_of(
    st.tuples(st.sampled_from(["u", "é", "x y"]), st.integers(0, 10**18 - 1), st.integers(0, 99)).map(
        lambda row: ",".join(map(str, row)).encode()
    ),
    st.sampled_from(
        [b"", b"  ", b"u,1", b"u,1,2,3", b"\xff,1,2", b"u,-1,2", b"u,1,2.5", b",1,2", b"u,1e3,4"]
    ),
    st.just(b"u,1000000000000000000,1"),
)


@settings(deadline=None)
@given(st.lists(LINE, max_size=25), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_lines_are_those_of_a_plain_reader(texts, end, ends):
    content = end.join(texts) + (end if ends else b"")
    if not content:
        return
    expected, bad = [], []
    for number, line in enumerate(texts, start=1):
        fields = line.split(b",")
        user = fields[0]
        is_text = user != b"\xff" and b" " not in user and user
        if len(fields) == 3 and is_text and all(f.isdigit() and len(f) <= 18 for f in fields[1:]):
            expected.append((user.decode(), int(fields[1]), int(fields[2])))
        elif line.strip():
            bad.append(number)
    rows, malformed = read(content)
    assert rows == expected
    assert (malformed.count, malformed.first_line) == (len(bad), bad[0] if bad else 0)


def test_the_first_malformed_line_is_shown(monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 16)
    monkeypatch.setattr(lines.line_blocks, "__defaults__", (16,))
    content = b"a,1,2\n" * 40 + b"a;1;2\n" + b"a,1,2\n" * 40 + b"\xff,1,2\n"
    rows, malformed = read(content)
    assert len(rows) == 80
    assert malformed == Malformed(2, 41, "'a;1;2' is not user,item,time")


def test_a_header_is_checked_and_no_line():
    rows, malformed = read(b"\xef\xbb\xbfuser,item,time\na,1,2\nb;\n", header="user,item,time")
    assert rows == [("a", 1, 2)]
    assert malformed.first_line == 3
    with pytest.raises(InputError, match="a file: the first line is 'a,1,2', not the expected header"):
        read(b"a,1,2\n", header="user,item,time")


def test_an_empty_file_is_refused():
    with pytest.raises(InputError, match="a file: the file is empty; get it again"):
        read(b"")


def test_days_that_no_calendar_has_are_malformed():
    pattern = rf"(?P<user>{NUMBER}) (?P<item>{NUMBER}) (?P<time>[0-9-]+)"
    content = b"1 2 2020-02-29\n1 3 2021-02-29\n2 4 2021-03-01\n"
    table, malformed = read_lines(
        io.BytesIO(content),
        pattern,
        where="a file",
        what="user item day",
        numbers=("user", "item"),
        parse_times=lambda column: parse_dates(column, "%Y-%m-%d"),
    )
    assert table.column("item").to_pylist() == [2, 4]
    assert table.column("time").to_pylist() == [1582934400, 1614556800]
    assert malformed == Malformed(1, 2, "'1 3 2021-02-29' is not user item day")
