import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from easrec.data.interactions import Interactions, content_checksum, load_interactions
from easrec.errors import InputError

ROWS = [  # user, item, timestamp; not in order, with a tie, and user 12 with too few
    (10, 7, 300),
    (9, 30, 100),
    (10, 200, 100),
    (12, 7, 5),
    (10, 30, 100),
    (9, 7, 50),
    (12, 8, 6),
    (9, 200, 100),
]
HISTORIES = {9: [7, 30, 200], 10: [200, 30, 7]}  # ties (30, 200 and 200, 30) as in the file


def write_log(path, rows=ROWS, columns=("user_id", "item_id", "timestamp")):
    frame = pd.DataFrame(rows, columns=list(columns))
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        header = dict(zip(frame, ("token", "token", "float"), strict=True))
        frame.columns = [f"{name}:{kind}" for name, kind in header.items()]
        frame.to_csv(path, index=False, sep="\t")
    return path


def with_text_ids(rows):
    return [(f"u{user}", f"é{item}, no. 1", time) for user, item, time in rows]


def histories(log: Interactions) -> dict:
    own_items = log.item_ids[log.items].tolist()
    found = {}
    for user, item in zip(log.user_ids[log.users].tolist(), own_items, strict=True):
        found.setdefault(user, []).append(item)
    return found


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".inter"])
def test_whole_number_ids_from_every_format(tmp_path, suffix):
    log = load_interactions(write_log(tmp_path / f"own{suffix}"))
    assert histories(log) == HISTORIES
    assert log.user_ids.tolist() == [9, 10]
    assert log.users.tolist() == [0, 0, 0, 1, 1, 1]
    assert sorted(log.item_ids[1:].tolist()) == [7, 30, 200]
    assert log.item_ids[0] == -1
    assert log.timestamps.tolist() == [50, 100, 100, 100, 100, 300]
    assert log.dropped == {"users": 1, "interactions": 2}
    assert log.name == "own"
    assert (log.num_users, log.num_items) == (2, 3)
    assert (log.users.dtype, log.items.dtype) == (np.int64, np.int32)
    assert log.timestamps.dtype == np.int64


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".inter"])
def test_text_ids_from_every_format(tmp_path, suffix):
    log = load_interactions(write_log(tmp_path / f"own{suffix}", with_text_ids(ROWS)))
    assert histories(log) == {
        f"u{user}": [f"é{item}, no. 1" for item in items] for user, items in HISTORIES.items()
    }
    assert log.item_ids[0] == ""


def test_formats_agree_on_everything(tmp_path):
    for rows in (ROWS, with_text_ids(ROWS)):
        logs = [
            load_interactions(write_log(tmp_path / f"own{suffix}", rows))
            for suffix in (".csv", ".parquet", ".inter")
        ]
        assert len({log.checksum for log in logs}) == 1


def test_columns_go_by_their_own_names_and_others_are_ignored(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("time,who,note,what\n3,a,x,p\n1,a,,q\n2,a,,r\n")
    log = load_interactions(path, user_column="who", item_column="what", time_column="time")
    assert histories(log) == {"a": ["q", "r", "p"]}


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_log(tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(b"\xef\xbb\xbfuser_id,item_id,timestamp\r\na,p,1\r\na,q,2\r\na,r,3\r\n")
    assert histories(load_interactions(path)) == {"a": ["p", "q", "r"]}


def test_leading_zeros_keep_ids_texts(tmp_path):
    path = write_log(tmp_path / "own.csv", [("007", "1", 1), ("007", "2", 2), ("007", "3", 3)])
    log = load_interactions(path)
    assert histories(log) == {"007": [1, 2, 3]}


def test_text_ids_of_a_parquet_file_stay_texts(tmp_path):
    path = write_log(tmp_path / "own.parquet", [("1", "1", 1), ("1", "2", 2), ("1", "3", 3)])
    assert histories(load_interactions(path)) == {"1": ["1", "2", "3"]}


def test_categories_of_a_parquet_file_are_read_by_value(tmp_path):
    users, items = list("uuuv"), list("abca")
    frame = pd.DataFrame({"user_id": users, "item_id": items, "timestamp": range(4)})
    frame["item_id"] = pd.Categorical(items, categories=list("zcab"))
    frame["user_id"] = pd.Categorical(users, categories=list("tvu"))  # nobody is called "t"
    frame.to_parquet(tmp_path / "own.parquet")
    log = load_interactions(tmp_path / "own.parquet")
    assert histories(log) == {"u": ["a", "b", "c"]}
    assert log.num_items == 3
    assert log.dropped == {"users": 1, "interactions": 1}


def test_whole_floats_are_ids_and_fractions_are_not(tmp_path):
    path = write_log(tmp_path / "own.parquet", [(1.0, 5, 1), (1.0, 6, 2), (1.0, 7, 3)])
    assert histories(load_interactions(path)) == {1: [5, 6, 7]}
    write_log(path, [(1.5, 5, 1), (1.5, 6, 2), (1.5, 7, 3)])
    with pytest.raises(InputError, match="column 'user_id' holds double; ids must be texts or"):
        load_interactions(path)


def test_fractional_timestamps_and_dates_order_the_rows(tmp_path):
    rows = [("a", "p", 1.5), ("a", "q", -2e3), ("a", "r", 1.25)]
    for suffix in (".csv", ".parquet", ".inter"):
        log = load_interactions(write_log(tmp_path / f"own{suffix}", rows))
        assert histories(log) == {"a": ["q", "r", "p"]}
        assert log.timestamps.tolist() == [-2000.0, 1.25, 1.5]
    dates = pd.to_datetime(["2024-03-01", "2024-01-01", "2024-02-01"])
    dated = [("a", item, date) for item, date in zip("pqr", dates, strict=True)]
    log = load_interactions(write_log(tmp_path / "own.parquet", dated))
    assert histories(log) == {"a": ["q", "r", "p"]}


def test_equal_timestamps_keep_the_order_of_the_file(tmp_path):
    items = np.random.default_rng(0).permutation(5000).tolist()
    rows = [(user, item, 7) for item in items for user in (1, 2)]
    log = load_interactions(write_log(tmp_path / "own.csv", rows))
    assert histories(log) == {1: items, 2: items}


def test_dense_items_are_a_fixed_permutation_blind_to_first_appearance(tmp_path):
    rows = [(user, item, item) for user in range(3) for item in range(200)]
    log = load_interactions(write_log(tmp_path / "one.csv", rows))
    again = load_interactions(write_log(tmp_path / "two.csv", rows[::-1]))
    assert log.item_ids.tolist() == again.item_ids.tolist()
    assert log.checksum == again.checksum
    assert sorted(log.item_ids[1:].tolist()) == list(range(200))
    correlation = np.corrcoef(np.arange(200), log.item_ids[1:])[0, 1]
    assert abs(correlation) < 0.3  # 4 standard deviations of a random order


def test_checksum_is_of_the_content(tmp_path):
    log = load_interactions(write_log(tmp_path / "own.csv"))
    parts = [log.users, log.items, log.user_ids, log.item_ids]
    assert content_checksum(*parts) == log.checksum
    for position, part in enumerate(parts):
        changed = part.copy()
        changed[-1] += 1
        others = [*parts[:position], changed, *parts[position + 1 :]]
        assert content_checksum(*others) != log.checksum


def test_the_least_number_of_interactions_is_an_argument(tmp_path):
    path = write_log(tmp_path / "own.csv")
    assert load_interactions(path, min_user_interactions=1).user_ids.tolist() == [9, 10, 12]
    assert load_interactions(path, min_user_interactions=1).num_items == 4
    with pytest.raises(ValueError, match="min_user_interactions must be at least 1, got 0"):
        load_interactions(path, min_user_interactions=0)


def refused(path, match, **columns):
    with pytest.raises(InputError, match=match) as caught:
        load_interactions(path, **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_file(tmp_path):
    message = refused(tmp_path / "none.csv", "there is no such file; check the path")
    assert str(tmp_path / "none.csv") in message
    refused("no/where.inter", "no/where.inter: there is no such file")
    refused(tmp_path, "names no format")


def test_unknown_name_lists_the_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("ml-100", r"unknown data set 'ml-100'; known are .*ml-100k.*\.inter")


def test_unknown_format(tmp_path):
    path = tmp_path / "own.xlsx"
    path.write_text("x")
    refused(path, r"the ending '.xlsx' names no format .* \.parquet, \.csv, \.inter")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".inter"])
def test_misspelt_column_names_those_found_and_the_closest(tmp_path, suffix):
    path = write_log(tmp_path / f"own{suffix}", columns=("userId", "item_id", "timestamp"))
    message = refused(path, "there is no column 'user_id'")
    assert "found are 'userId', 'item_id', 'timestamp'" in message
    assert "the closest is 'userId'" in message
    assert "user_column" in message
    message = refused(path, "there is no column 'zzz'", user_column="userId", time_column="zzz")
    assert "closest" not in message
    assert "time_column" in message


def test_a_column_twice(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("user_id,item_id,timestamp,item_id\n1,2,3,4\n")
    refused(path, "column 'item_id' occurs more than once")
    refused(write_log(path), "must be three columns", item_column="user_id")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".inter"])
def test_empty_files(tmp_path, suffix):
    path = tmp_path / f"own{suffix}"
    path.touch()
    refused(path, "the file is empty")
    refused(write_log(path, []), "has a header but no rows")


def test_blank_lines_only(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("\n\n")
    refused(path, "there is no column 'user_id'; found are none")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".inter"])
def test_bad_timestamps_give_the_first_and_its_row(tmp_path, suffix):
    rows = [("a", "p", "1"), ("a", "q", "2024-01-02"), ("a", "r", "nan"), ("a", "s", "4")]
    path = write_log(tmp_path / f"own{suffix}", rows)
    refused(path, r"'timestamp' holds '2024-01-02' in row 2 \(after the header\), .* nor are 1 more;")


def test_infinite_timestamps_are_refused(tmp_path):
    rows = [("a", "p", 1.0), ("a", "q", 2.0), ("a", "r", float("inf"))]
    for suffix in (".csv", ".parquet"):
        refused(
            write_log(tmp_path / f"own{suffix}", rows), "'timestamp' holds .*inf.* is no number; timestamps"
        )


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".inter"])
@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_nulls_are_counted(tmp_path, suffix, column):
    rows = [[1, 5, 1], [1, 6, 2], [1, 7, 3], [1, 8, 4]]
    position = ["user_id", "item_id", "timestamp"].index(column)
    rows[1][position] = rows[3][position] = None
    frame_rows = [tuple(row) for row in rows]
    path = write_log(tmp_path / f"own{suffix}", frame_rows)
    refused(path, rf"column '{column}' is empty \(null\) in 2 of 4 rows")


def test_nobody_left(tmp_path):
    path = write_log(tmp_path / "own.csv", [(1, 1, 1), (1, 2, 2), (2, 1, 1)])
    refused(path, "nobody is left, since none of the 2 users has 3 interactions or more")


def test_a_user_with_two_interactions_is_dropped_and_its_items_with_it(tmp_path):
    log = load_interactions(write_log(tmp_path / "own.csv"))
    assert 12 not in log.user_ids
    assert 8 not in log.item_ids


def test_broken_files(tmp_path):
    broken = tmp_path / "own.csv"
    broken.write_text("user_id,item_id,timestamp\n1,2,3\n1,2\n")
    refused(broken, r"cannot be read as \.csv \(.*Expected 3 columns, got 2.*\)")
    broken.write_bytes(b"user_id,item_id,timestamp\n\xff\xfe,2,3\n")
    refused(broken, r"cannot be read as \.csv")
    no_parquet = tmp_path / "own.parquet"
    no_parquet.write_text("user_id,item_id,timestamp\n1,2,3\n")
    refused(no_parquet, r"cannot be read as \.parquet")


REPEATING = [  # user, item, timestamp; users 1 and 2 meet item 5 twice, item 8 is met by one user alone
    (1, 5, 10),
    (1, 6, 11),
    (1, 5, 12),
    (2, 5, 3),
    (2, 5, 3),
    (2, 6, 4),
    (3, 5, 1),
    (3, 6, 2),
    (3, 8, 3),
]


@pytest.mark.parametrize(
    ("duplicates", "expected"),
    [
        (None, {1: [5, 6, 5], 2: [5, 5, 6], 3: [5, 6, 8]}),
        ("keep", {1: [5, 6, 5], 2: [5, 5, 6], 3: [5, 6, 8]}),
        ("first", {1: [5, 6], 2: [5, 6], 3: [5, 6, 8]}),
        ("last", {1: [6, 5], 2: [5, 6], 3: [5, 6, 8]}),
    ],
)
def test_duplicates_of_a_log_are_kept_unless_asked_otherwise(tmp_path, duplicates, expected):
    path = write_log(tmp_path / "own.csv", REPEATING)
    log = load_interactions(path, duplicates=duplicates, min_user_interactions=1)
    assert histories(log) == expected
    removed = {"duplicates": 2} if duplicates in ("first", "last") else {}
    assert log.dropped == {"users": 0, "interactions": 0, **removed}


def test_duplicates_go_before_the_users_with_too_few(tmp_path):
    path = write_log(tmp_path / "own.csv", REPEATING)
    assert histories(load_interactions(path, duplicates="first")) == {3: [5, 6, 8]}


def test_a_core_drops_items_too_and_counts_them(tmp_path):
    path = write_log(tmp_path / "own.csv", REPEATING)
    log = load_interactions(path, k_core=2, min_user_interactions=1)
    assert histories(log) == {1: [5, 6, 5], 2: [5, 5, 6], 3: [5, 6]}
    assert log.dropped == {"users": 0, "interactions": 1, "items": 1}
    # Without item 8 user 3 has too few; without user 3 the others still have enough.
    log = load_interactions(path, k_core=2, min_user_interactions=3)
    assert histories(log) == {1: [5, 6, 5], 2: [5, 5, 6]}
    assert log.dropped == {"users": 1, "interactions": 3, "items": 1}
    assert load_interactions(path, k_core=0).checksum == load_interactions(path).checksum
    refused(path, "nobody is left of 3 users and 3 items, since no group of them has 4", k_core=4)
    with pytest.raises(ValueError, match="k_core must be at least 0, got -1"):
        load_interactions(path, k_core=-1)


def test_raw_files_need_the_name_of_their_data_set(tmp_path):
    path = write_log(tmp_path / "own.csv")
    refused("own", r"'own' is no data set known by name, which raw files \(.*own.csv\) belong to", raw=path)
    refused("ml-1m", "no such file or directory; check the path", raw=tmp_path / "none.zip")
    refused(tmp_path / "ml-1m.zip", "names no format .* for the raw file of a known data set, that name too")


def test_durations_and_times_of_day_order_the_rows_and_lists_are_no_ids(tmp_path):
    users, items = [1, 1, 1], ["a", "b", "c"]
    for times in (pa.array([3, 1, 2], pa.duration("s")), pa.array([3, 1, 2], pa.time64("us"))):
        pa.parquet.write_table(
            pa.table({"user_id": users, "item_id": items, "timestamp": times}), tmp_path / "log.parquet"
        )
        log = load_interactions(tmp_path / "log.parquet")
        assert log.item_ids[log.items].tolist() == ["b", "c", "a"]
    lists = pa.table({"user_id": [[1], [1], [1]], "item_id": items, "timestamp": [1, 2, 3]})
    pa.parquet.write_table(lists, tmp_path / "lists.parquet")
    with pytest.raises(InputError, match=r"holds list<.*>; ids must be texts or whole numbers"):
        load_interactions(tmp_path / "lists.parquet")


@pytest.mark.parametrize("malformed", ["refuse", "skip"])
@pytest.mark.parametrize("before", ["\n", "\r\n\n", "\ufeff\n"])
def test_blank_lines_before_the_header_are_no_part_of_the_log(tmp_path, before, malformed):
    path = write_log(tmp_path / "own.csv")
    plain = load_interactions(path)
    path.write_text(before + path.read_text(), encoding="utf-8", newline="")
    log = load_interactions(path, malformed=malformed)
    assert log.checksum == plain.checksum
    assert log.malformed.count == 0


def test_unsigned_ids_are_whole_numbers_up_to_what_int64_holds(tmp_path):
    path = tmp_path / "own.parquet"
    items = np.array([2**63 - 1, 2**63 - 2, 5, 6], dtype=np.uint64)
    frame = pd.DataFrame({"user_id": [1, 1, 1, 1], "item_id": items, "timestamp": range(4)})
    frame.to_parquet(path)
    assert set(load_interactions(path).item_ids[1:].tolist()) == {2**63 - 1, 2**63 - 2, 5, 6}
    frame["item_id"] += np.uint64(1)
    frame.to_parquet(path)
    refused(path, r"'item_id' holds 9223372036854775808; whole numbers must be below 2\^63: give such ids as")


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_an_empty_text_of_parquet_is_no_id(tmp_path, column):
    path = tmp_path / "own.parquet"
    frame = pd.DataFrame({"user_id": list("aaaa"), "item_id": list("pqrs"), "timestamp": range(4)})
    frame.loc[2, column] = ""
    frame.to_parquet(path)
    refused(path, f"column '{column}' holds an empty text; fill it in or remove the rows")


def test_a_path_that_the_system_cannot_look_at_is_refused(tmp_path):
    refused(tmp_path / ("n" * 300 + ".csv"), r"cannot be looked at \(File name too long\)")
    (tmp_path / "folder.csv").mkdir()
    refused(tmp_path / "folder.csv", "there is a directory of that name, no file")


def test_a_missing_column_names_the_argument_and_the_option(tmp_path):
    refused(
        write_log(tmp_path / "own.csv"),
        r"no column 'usr'; .*; say with user_column \(--user-column\) which one it is",
        user_column="usr",
    )
