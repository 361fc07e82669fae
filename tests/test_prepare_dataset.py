"""The command line of prepare_dataset.py, as a user meets it."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from easrec.data.interactions import load_interactions

SCRIPT = Path(__file__).parent.parent / "pipelines" / "prepare_dataset.py"
CHECKINS = "".join(
    f"{user}\t2010-10-{day:02}T00:00:00Z\t30.2\t-97.7\t{place}\n"
    for user in range(6)
    for day, place in enumerate([1, 2, 3, 4, 5, 1], start=1)
)


def run(*words: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200", "TERM": "dumb", "EASREC_CACHE_DIR": str(cwd / "cache")},
        check=False,
    )


@pytest.fixture
def checkins(tmp_path: Path) -> Path:
    path = tmp_path / "loc-gowalla_totalCheckins.txt.gz"
    path.write_bytes(gzip.compress((CHECKINS + "no check-in\n").encode()))
    return path


def test_help_imports_nothing_slow(tmp_path: Path) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{str(SCRIPT)!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'pandas', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_raw_file_by_the_recipe_of_its_data_set(tmp_path: Path, checkins: Path) -> None:
    done = run("--dataset", "gowalla", "--data", checkins, "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    read, *_, row, published, split, one, two, terms = done.stdout.splitlines()
    assert read.startswith("read 37 rows: 1 malformed line, it is line 37: 'no check-in' is not user,")
    assert "6 repeats of a user and an item left out (the last one stays)" in read
    assert "0 users and 0 items with too few interactions dropped, and with them 0 interactions" in read
    assert row == "| gowalla | 6 | 5 | 30 | 5.00 | 100.0000% |"
    assert published.startswith("other counts are published (64,115 users, 164,532 items, 2,0")
    assert "split leave_one_out: 12 training targets, 6 validation and 6 test questions" in split
    assert (one, two) == ("wrote out/gowalla.parquet", "wrote out/gowalla.json")
    assert "Cho, Myers and Leskovec" in terms
    about = json.loads((tmp_path / "out" / "gowalla.json").read_text())
    assert about["malformed"]["first_line"] == 37
    assert about["recipe"] == {"duplicates": "last", "k_core": 5, "min_user_interactions": 3}
    assert about["as_published"] is False
    log = load_interactions(tmp_path / "out" / "gowalla.parquet")
    assert log.checksum == load_interactions("gowalla", raw=checkins).checksum == about["checksum"]


@pytest.mark.parametrize("words", [["--keep-repeats"], ["--duplicates", "keep"]])
def test_repeats_can_be_kept(tmp_path: Path, checkins: Path, words: list[str]) -> None:
    done = run("--dataset", "gowalla", "--data", checkins, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| gowalla | 6 | 5 | 36 | 6.00 | 120.0000% |" in done.stdout
    assert "published" not in done.stdout
    assert (tmp_path / "runs" / "data" / "gowalla.parquet").is_file()


def test_a_log_of_ones_own_with_a_temporal_split(tmp_path: Path) -> None:
    rows = "".join(f"{user},p{(user + step) % 7},{user + step}\n" for user in range(10) for step in range(8))
    (tmp_path / "log.csv").write_text("who,what,when\n" + rows + "broken\n")
    words = ["--data", "log.csv", "--user-column", "who", "--item-column", "what", "--time-column", "when"]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be read as .csv" in done.stderr
    done = run(*words, "--malformed", "skip", "--split", "temporal", "--output", ".", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "read 81 rows: 1 malformed line, it is line 82: 'broken' has not 3 fields but 1" in done.stdout
    about = json.loads((tmp_path / "log.json").read_text())
    assert about["split"]["method"] == "temporal"
    assert about["split"]["valid_from"] < about["split"]["test_from"]
    assert about["source"] == {"dataset": None, "data": "log.csv"}
    assert about["licence"] is about["as_published"] is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give --dataset, a data set known by name, or --data, a log of your own, or both"),
        (["--dataset", "ml-3m"], "unknown --dataset 'ml-3m'; known are ml-100k, ml-1m"),
        (["--dataset", "gowalla"], "'gowalla' is not downloaded for you: get loc-gowalla_total"),
        (["--dataset", "steam", "--data", "nowhere"], "nowhere: there is no such file or directory"),
        (["--data", "nowhere.csv"], "nowhere.csv: there is no such file"),
        (
            ["--data", "x.csv", "--keep-repeats", "--duplicates", "last"],
            "--keep-repeats and --duplicates last",
        ),
        (["--data", "x.csv", "--k-core", "-1"], "--k-core must be at least 0, got -1"),
        (["--data", "x.csv", "--min-user-interactions", "0"], "--min-user-interactions must be at least 1"),
        (["--data", "few.csv", "--k-core", "9"], "has 9 interactions per user and 9 per item within itself"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_status_2(
    tmp_path: Path, words: list[str], sentence: str
) -> None:
    rows = "".join(f"a,{item},{item}\n" for item in range(4))
    (tmp_path / "few.csv").write_text("user_id,item_id,timestamp\n" + rows)
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("prepare_dataset.py: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["few.csv"]
