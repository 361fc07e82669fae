"""The data that a sweep's options name: known sets from raw files, logs of one's own, and their splits."""

from pathlib import Path

import numpy as np
import pytest

from easrec.data.datasets import KNOWN_DATASETS
from easrec.data.interactions import load_interactions
from easrec.data.sequences import leave_one_out
from easrec.data.splits import temporal_split
from easrec.errors import InputError
from sweeps.config import SweepConfig
from sweeps.data import load_data
from sweeps.data_options import DataOptions
from sweeps.plan import preset_of

CHECKINS = "".join(
    f"{user}\t2010-10-{day:02}T0{user}:00:00Z\t30.2\t-97.7\t{place}\n"
    for user in range(6)
    for day, place in enumerate([1, 2, 3, 4, 5, 1], start=1)
)


@pytest.fixture
def checkins(tmp_path: Path) -> Path:
    """Gowalla's raw file, with two users too few places and a line that is none."""
    path = tmp_path / "loc-gowalla_totalCheckins.txt"
    few = "".join(f"{user}\t2010-10-01T00:00:00Z\t1\t1\t1\n" for user in (7, 8))
    path.write_text(CHECKINS + few + "no check-in\n")
    return path


def own_log(path: Path) -> Path:
    rows = [f"u{user},i{(user + step) % 9},{10 * step + user}" for user in range(10) for step in range(8)]
    path.write_text("who,what,when\n" + "\n".join(rows) + "\nu99,i1,5\n")
    return path


COLUMNS = {"user_column": "who", "item_column": "what", "time_column": "when"}


def test_a_known_set_from_its_raw_file_is_prepared_by_its_recipe(checkins: Path) -> None:
    for place in (checkins, checkins.parent):
        data = load_data(DataOptions(dataset="gowalla", data=place))
        assert data.split.checksum == leave_one_out(load_interactions("gowalla", raw=checkins)).checksum
        assert data.licence == KNOWN_DATASETS["gowalla"].licence
        assert data.described.startswith(
            "gowalla: 6 users, 5 items, 30 interactions; 2 users with too few interactions dropped; "
            "1 malformed line, it is line 39: 'no check-in'"
        )
        assert sorted(data.items.own_ids[1:].tolist()) == [1, 2, 3, 4, 5]


def test_a_log_of_ones_own_has_its_columns_and_no_terms(tmp_path: Path) -> None:
    log = own_log(tmp_path / "log.csv")
    data = load_data(DataOptions(data=log, **COLUMNS))
    assert data.split.checksum == leave_one_out(load_interactions(log, **COLUMNS)).checksum  # type: ignore[arg-type]
    assert "no terms are recorded" in data.licence
    assert (
        data.described == "log: 10 users, 9 items, 80 interactions; 1 user with too few interactions dropped"
    )
    # A file may be given as the data set too.
    assert load_data(DataOptions(dataset=str(log), **COLUMNS)).split.checksum == data.split.checksum


def test_raw_files_of_an_unknown_set_and_a_name_for_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'other' is no data set known by name, which raw files"):
        load_data(DataOptions(dataset="other", data=own_log(tmp_path / "log.csv")))
    with pytest.raises(
        InputError, match="--data ml-1m is no file; a data set known by name goes to --dataset"
    ):
        load_data(DataOptions(data=Path("ml-1m")))


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, {}),
        ({"valid_share": 0.2}, {"valid_share": 0.2}),
        ({"test_share": 0.3, "asked": "last"}, {"test_share": 0.3, "asked": "last"}),
        ({"boundaries": (40.0, 60.0), "asked": "first"}, {"boundaries": (40.0, 60.0), "asked": "first"}),
    ],
)
def test_a_temporal_split_has_the_users_shares_times_and_questions(
    tmp_path: Path, options: dict[str, object], arguments: dict[str, object]
) -> None:
    log = own_log(tmp_path / "log.csv")
    data = load_data(DataOptions(data=log, split="temporal", **COLUMNS, **options))  # type: ignore[arg-type]
    expected = temporal_split(load_interactions(log, **COLUMNS), **arguments)  # type: ignore[arg-type]
    assert data.split.checksum == expected.checksum
    assert data.split.statistics == expected.statistics
    first, second = expected.statistics["valid_from"], expected.statistics["test_from"]
    assert (
        f"split at the times {first} and {second}: {len(expected.valid.rows)} validation and "
        f"{len(expected.test.rows)} test questions; " in data.described
    )
    # The items' counts, which popularity is taken from, are those of training alone.
    assert np.array_equal(data.items.training_counts, expected.training_counts())


def test_a_preset_with_fewer_users_splits_those_in_time(tmp_path: Path) -> None:
    rows = [f"u{user},i{(user * 7 + step * 3) % 50},{step}" for user in range(400) for step in range(6)]
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    config = SweepConfig(data=log, split="temporal", boundaries=(3.5, 4.5), preset="smoke")
    split = load_data(config, preset_of(config)).split
    assert split.num_users == 300
    assert (split.train_ends - split.starts).tolist() == [4] * 300
    assert len(split.valid.rows) == len(split.test.rows) == 300
