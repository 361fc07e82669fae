"""Which addresses are taken, and that none is shown with its password."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from easrec.errors import InputError
from sweeps import sweep as sweep_module
from sweeps.addresses import TRACKING_VARIABLE, masked, with_password, without_credentials
from sweeps.config import SweepConfig
from sweeps.output import TRACKING, note_tracking_uri

SECRET = "s3cr@et:%21"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("https://token@mlflow/path?x=1", "https://***@mlflow/path?x=1"),
        (f"postgresql+psycopg://ann:{SECRET}@db:5432/mlflow", "postgresql+psycopg://ann:***@db:5432/mlflow"),
        (
            "postgresql://db/mlflow?user=ann&password=hidden&sslmode=require",
            "postgresql://db/mlflow?user=ann&password=***&sslmode=require",
        ),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_passwords_are_masked_and_all_else_is_shown(address: str, shown: str) -> None:
    assert masked(address) == shown


def test_a_message_shows_neither_the_address_nor_the_password_in_either_spelling() -> None:
    address = f"postgresql://ann:{SECRET}@db/mlflow"
    message = without_credentials(f"cannot open {address}: role ann, {SECRET}, s3cr@et:!", address)
    assert message == "cannot open postgresql://ann:***@db/mlflow: role ann, ***, ***"


def test_the_command_to_resume_hides_the_password_and_says_so_when_used() -> None:
    config = SweepConfig(tracking_uri=f"postgresql://ann:{SECRET}@db/mlflow")
    words = shlex.split(config.command())
    assert SECRET not in " ".join(words)
    again = SweepConfig(tracking_uri=words[words.index("--tracking-uri") + 1])
    with pytest.raises(InputError, match=r"has \*\*\* in place of its password; put the password in, or the"):
        again.check()


def test_a_hidden_password_is_taken_from_the_environment_for_the_same_address_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = f"postgresql://ann:{SECRET}@db/mlflow?sslkey={SECRET}"
    hidden = "postgresql://ann:***@db/mlflow?sslkey=***"
    monkeypatch.setenv(TRACKING_VARIABLE, whole)
    assert with_password(hidden) == whole
    SweepConfig(tracking_uri=hidden).check()
    for other in (
        "postgresql://bob:***@db/mlflow",
        "http://mlflow:5000",
        f"postgresql://ann:{SECRET}@other/mlflow",
    ):
        assert with_password(other) == other
    monkeypatch.delenv(TRACKING_VARIABLE)
    assert with_password(hidden) == hidden
    with pytest.raises(InputError, match=r"in place of its password"):
        SweepConfig(tracking_uri="postgresql://db/mlflow?password=***").check()


def test_a_resumed_sweep_is_recorded_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRACKING_VARIABLE, raising=False)
    note_tracking_uri(tmp_path, f"http://ann:{SECRET}@mlflow:5000")
    assert SECRET not in (tmp_path / TRACKING).read_text()
    assert sweep_module._recorded_at(SweepConfig(), tmp_path) is None
    resumed = SweepConfig(output=tmp_path, resume=True)
    with pytest.raises(
        InputError, match=r"http://ann:\*\*\*@mlflow:5000 has \*\*\* in place of its password"
    ):
        sweep_module._recorded_at(resumed, tmp_path)
    monkeypatch.setenv(TRACKING_VARIABLE, f"http://ann:{SECRET}@mlflow:5000")
    assert sweep_module._recorded_at(resumed, tmp_path) == f"http://ann:{SECRET}@mlflow:5000"
    elsewhere = dataclasses.replace(resumed, tracking_uri="http://other:5000")
    assert sweep_module._recorded_at(elsewhere, tmp_path) == "http://other:5000"


def test_the_tracking_uri_is_no_setting_of_the_results() -> None:
    assert (
        SweepConfig(tracking_uri="http://a:5000").result_settings()
        == SweepConfig(tracking_uri="http://b:5000").result_settings()
        == SweepConfig().result_settings()
    )


@pytest.mark.parametrize("address", ["local", "auto", "127.0.0.1:6379", "head.cluster:6379", "[::1]:6379"])
def test_addresses_of_ray_that_a_sweep_takes(address: str) -> None:
    SweepConfig(ray_address=address).check()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("ray://head:10001", "a sweep cannot run through a Ray client; start it on a node"),
        ("http://head:8265", "must be local, auto or HOST:PORT, got http://head:8265"),
        ("head", "must be local, auto or HOST:PORT, got head"),
        ("head:99999", "must be local, auto or HOST:PORT, got head:99999"),
    ],
)
def test_other_addresses_of_ray_are_refused(address: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        SweepConfig(ray_address=address).check()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("mlflow:5000", "must be http://HOST:PORT"),
        ("file:///runs", "must be http://HOST:PORT"),
        ("ftp://ann:secret@host/x", r"got ftp://ann:\*\*\*@host/x"),
        ("sqlite:///mlflow.db", "must name an absolute path"),
    ],
)
def test_other_places_for_records_are_refused(address: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        SweepConfig(tracking_uri=address).check()
