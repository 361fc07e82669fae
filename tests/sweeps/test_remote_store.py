"""Results on an object store: a directory, and S3 as a server on the loopback speaks it."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from easrec.data.sequences import SplitData, leave_one_out
from easrec.data.synthetic import synthetic_interactions
from easrec.errors import InputError
from easrec.models.architecture import CandidateSpace
from easrec.nas.search import SearchConfig
from easrec.retrain import RetrainConfig
from sweeps import coordinator as coordinator_module
from sweeps import objects as objects_module
from sweeps.config import SweepConfig
from sweeps.coordinator import Coordinator
from sweeps.manifest import (
    IncompleteError,
    download_file,
    manifest_from_dict,
    manifest_to_dict,
    upload_files,
)
from sweeps.objects import ObjectStore, open_storage
from sweeps.output import identify
from sweeps.records import trial_architecture, trial_record
from sweeps.remote_store import RemoteStore
from sweeps.storage_error import StorageError
from sweeps.store import EntryBusyError, Store, StoredFailureError, Workspace, now_ms
from sweeps.trial import SUPERNET, TrialConfig, run_trial, warm_stage
from tests.sweeps.object_server import ObjectServer, object_server

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "anybody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with object_server() as running:
            yield running


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASREC_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def no_faults(server: ObjectServer) -> Iterator[ObjectServer]:
    yield server
    server.refuse = lambda method, path: False


@pytest.fixture(params=["directory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, server: ObjectServer) -> str:
    if request.param == "directory":
        return (tmp_path / "shared place").as_uri()
    return server.url(f"tests/{tmp_path.name}")


def store_at(url: str) -> RemoteStore:
    """A store as another machine would open it, but for the cache."""
    return RemoteStore(open_storage(url), Coordinator())


def forget_cache(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


def epochs(number: int) -> Any:
    """A computation of some epochs, each of which leaves its number; the result tells where it began."""

    def compute(workspace: Workspace) -> dict[str, Any]:
        file = workspace.checkpoints / "epoch"
        file.parent.mkdir(exist_ok=True)
        begun = int(file.read_text()) if file.exists() else 0
        for epoch in range(begun + 1, number + 1):
            file.write_text(str(epoch))
            workspace.record({"epoch": epoch})
        (workspace.directory / "deep" / "er").mkdir(parents=True)
        (workspace.directory / "deep" / "er" / "weights").write_bytes(bytes(range(256)) * 9000)
        (workspace.directory / "note").write_text("kept")
        return {"begun": begun}

    return compute


def test_an_entry_is_computed_once_and_read_with_its_files_by_whoever_has_an_empty_cache(
    url: str, tmp_path: Path
) -> None:
    assert store_at(url).get_or_compute("kind", "key", epochs(3)) == {"begun": 0}
    assert not list((store_at(url).cache / "work").iterdir())
    forget_cache(tmp_path)
    store = store_at(url)
    assert store.get_or_compute("kind", "key", epochs(9)) == {"begun": 0}
    entry = store.entry("kind", "key")
    assert (entry.path("deep") / "er" / "weights").read_bytes() == bytes(range(256)) * 9000
    assert not (store.cache / "kind" / "key" / "note").exists(), "only what is asked for is fetched"
    assert entry.path("note").read_text() == "kept"
    assert not entry.path("checkpoints").exists()
    names, folders = store.objects.list("kind/key")
    assert (names, folders) == (set(), {"files"}), "checkpoints are gone"


def test_a_file_that_was_spoilt_in_the_cache_is_fetched_again_and_one_in_the_storage_is_refused(
    url: str, tmp_path: Path
) -> None:
    store_at(url).get_or_compute("kind", "key", epochs(1))
    store = store_at(url)
    path = store.entry("kind", "key").path("note")
    path.write_text("KEPT")
    assert store_at(url).entry("kind", "key").path("note").read_text() == "kept"
    for name in store.objects.list("kind/key/files")[0]:
        store.objects.write(f"kind/key/files/{name}", b"KEPT")
    forget_cache(tmp_path)
    with pytest.raises(StorageError, match=r"does not hold what was written there; delete it to have it"):
        store_at(url).entry("kind", "key").path("note")


class Killed(BaseException):
    """Stands for the end of a process."""


def cut(objects: ObjectStore, patch: pytest.MonkeyPatch, *, after: int) -> None:
    """Let the process end when it has uploaded some more files."""
    uploads = []

    def upload(self: ObjectStore, name: str, file: Path) -> None:
        uploads.append(name)
        if len(uploads) > after:
            raise Killed
        whole(self, name, file)

    whole = ObjectStore.upload
    patch.setattr(ObjectStore, "upload", upload)


def test_a_result_cut_short_is_none_and_its_checkpoint_stays(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(url)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        cut(store.objects, patch, after=3)  # two epochs, and the first of the result's two files
        store.get_or_compute("kind", "key", epochs(2))
    assert store.objects.list("kind/key/files")[0], "a file of the result was uploaded"
    forget_cache(tmp_path)
    assert store_at(url).entry("kind", "key").result() is None
    assert store_at(url).get_or_compute("kind", "key", epochs(2)) == {"begun": 2}


def test_a_checkpoint_cut_short_is_not_read_but_the_one_before_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(workspace: Workspace) -> dict[str, Any]:
        pair = [workspace.checkpoints / name for name in ("a", "b")]
        workspace.checkpoints.mkdir(exist_ok=True)
        texts = [file.read_text() for file in pair if file.exists()]
        for epoch in range(1, 4):
            for file in pair:
                file.write_text(str(epoch))
            workspace.record({"epoch": epoch})
        return {"found": texts}

    with monkeypatch.context() as patch, pytest.raises(Killed):
        cut(store_at(url).objects, patch, after=5)  # a and b twice, then a
        store_at(url).get_or_compute("kind", "key", compute)
    forget_cache(tmp_path)
    assert store_at(url).get_or_compute("kind", "key", compute) == {"found": ["2", "2"]}


def work_until_killed(url: str, ready: Path) -> None:
    """Runs in a process of its own: three epochs, and then none that ends."""

    def compute(workspace: Workspace) -> dict[str, Any]:
        epochs(3)(workspace)
        ready.write_text("")
        time.sleep(60)
        return {}

    store_at(url).get_or_compute("kind", "key", compute)


def test_a_killed_process_leaves_its_checkpoint_to_another_machine(url: str, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = SPAWN.Process(target=work_until_killed, args=(url, ready))
    process.start()
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    # This machine has its directory still, and removes it; nothing is read from there.
    store = store_at(url)
    (left,) = [path for path in (store.cache / "work").iterdir() if path.is_dir()]
    assert store.get_or_compute("kind", "key", epochs(5)) == {"begun": 3}
    assert not left.exists()


def test_of_two_that_compute_an_entry_at_once_the_first_result_stays(url: str, tmp_path: Path) -> None:
    first, second = store_at(url), store_at(url)  # sweeps of their own, which do not see each other's leases

    def compute(workspace: Workspace) -> dict[str, Any]:
        assert second.get_or_compute("kind", "key", epochs(4)) == {"begun": 0}
        return {"late": True} | epochs(2)(workspace)

    value = first.get_or_compute("kind", "key", compute)
    assert value == {"begun": 0}
    forget_cache(tmp_path)
    assert store_at(url).entry("kind", "key").path("note").read_text() == "kept"


def test_an_attempt_that_was_taken_for_dead_stops_at_its_next_epoch_and_takes_the_others_result(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_module, "_RENEW_EVERY_S", 0.01)
    store = store_at(url).owned_by("trial 1")
    went_on = []

    def next_attempt(workspace: Workspace) -> dict[str, Any]:
        time.sleep(0.3)  # the first one learns meanwhile that it has lost its lease
        return {"attempt": 2}

    def first_attempt(workspace: Workspace) -> dict[str, Any]:
        store.owned_by("trial 1").get_or_compute("kind", "key", next_attempt)
        workspace.record({"epoch": 1})
        went_on.append(workspace)
        return {"attempt": 1}

    assert store.get_or_compute("kind", "key", first_attempt) == {"attempt": 2}
    assert not went_on


def test_a_busy_entry_is_deferred_on_request(url: str) -> None:
    store = store_at(url)

    def compute(workspace: Workspace) -> dict[str, Any]:
        with pytest.raises(EntryBusyError):
            store.get_or_compute("kind", "key", epochs(1), on_busy="defer")
        return {}

    store.get_or_compute("kind", "key", compute)


def test_a_driver_that_polls_asks_the_object_store_nothing(server: ObjectServer, tmp_path: Path) -> None:
    url = server.url(f"polled/{tmp_path.name}")
    store_at(url).get_or_compute("warm", "before", epochs(1))
    coordinator = Coordinator()
    driver = RemoteStore(open_storage(url), coordinator)
    worker = RemoteStore(open_storage(url), coordinator)
    driver.refresh()
    assert driver.entry("warm", "before").result() is not None
    assert driver.entry("warm", "key").activity() is None

    def compute(workspace: Workspace) -> dict[str, Any]:
        workspace.record({"epoch": 1})
        asked = len(server.requests)
        for _ in range(50):
            driver.refresh()
            assert driver.entry("warm", "key").result() is None
            activity = driver.entry("warm", "key").activity()
            assert activity is not None and activity.report == {"epoch": 1}
            assert driver.entry("warm", "before").result() is not None
            assert driver.begun() == {"warm/before", "warm/key"}
        assert len(server.requests) == asked
        return {"n": 1}

    worker.get_or_compute("warm", "key", compute)
    driver.refresh()
    assert driver.entry("warm", "key").value() == {"n": 1}


def test_a_failure_is_stored_and_can_be_forgotten(url: str) -> None:
    store = store_at(url)
    store.refresh()

    def fails(workspace: Workspace) -> dict[str, Any]:
        workspace.checkpoints.mkdir()
        (workspace.checkpoints / "epoch").write_text("2")
        workspace.record({"epoch": 2})
        raise ValueError("the loss is nan")

    with pytest.raises(StoredFailureError, match="the loss is nan"):
        store.get_or_compute("kind", "key", fails, failures=(ValueError,))
    with pytest.raises(StoredFailureError, match="the loss is nan"):
        store_at(url).get_or_compute("kind", "key", epochs(3))
    store.refresh()
    store.forget_failure("kind", "key")
    assert store.get_or_compute("kind", "key", epochs(3)) == {"begun": 2}


def test_what_fails_for_a_moment_is_tried_again(
    no_faults: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "_RETRY_AFTER_S", (0.01,) * 5)
    store = store_at(no_faults.url(f"faults/{tmp_path.name}"))
    refused = []

    def refuse(method: str, path: str) -> bool:
        refused.append(path)
        return len(refused) < 8  # more often than the client tries by itself

    no_faults.refuse = refuse
    assert store.get_or_compute("kind", "key", epochs(2)) == {"begun": 0}
    assert len(refused) > 8


def test_what_fails_for_longer_ends_the_attempt_and_loses_nothing(
    no_faults: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects_module, "_RETRY_AFTER_S", (0.01,))
    url = no_faults.url(f"faults/{tmp_path.name}")

    def compute(workspace: Workspace) -> dict[str, Any]:
        epochs(2)(workspace)
        no_faults.refuse = lambda method, path: True
        workspace.record({"epoch": 3})
        raise AssertionError("not reached")

    with pytest.raises(StorageError, match=r"^writing kind/key/checkpoint.* keeps failing: "):
        store_at(url).get_or_compute("kind", "key", compute, failures=(ValueError,))
    no_faults.refuse = lambda method, path: False
    assert store_at(url).get_or_compute("kind", "key", epochs(4)) == {"begun": 2}


characters = st.characters(codec="utf-8", exclude_characters="/\\\0", exclude_categories=["C", "Z"])
parts = st.text(characters, min_size=1, max_size=9).filter(lambda part: not part.startswith("."))
names = st.lists(parts, min_size=1, max_size=3).map("/".join)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(names, st.binary(max_size=99), max_size=5))
def test_any_set_of_files_comes_back_by_its_manifest(
    files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # A name cannot be a file and a directory at once.
    files = {name: data for name, data in files.items() if not any(o.startswith(f"{name}/") for o in files)}
    folder = tmp_path_factory.mktemp("files")
    for name, data in files.items():
        (folder / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "from" / name).write_bytes(data)
    objects = ObjectStore("/x", fs.LocalFileSystem(), str(folder / "objects"))
    manifest = upload_files(objects, "some", folder / "from", known={})
    assert manifest_from_dict(json.loads(json.dumps(manifest_to_dict(manifest)))) == manifest
    for name, stored in manifest.items():
        download_file(objects, "some", stored, folder / "to" / name)
    found = {
        path.relative_to(folder / "to").as_posix(): path.read_bytes()
        for path in (folder / "to").rglob("*")
        if path.is_file()
    }
    assert found == files
    # Once more: nothing has changed, so nothing is uploaded.
    before = objects.list("some")
    assert upload_files(objects, "some", folder / "from", known=manifest) == manifest
    assert objects.list("some") == before


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", ""])
def test_a_manifest_that_leads_out_of_its_directory_is_refused(name: str) -> None:
    with pytest.raises(IncompleteError, match="a manifest names the file"):
        manifest_from_dict({name: {"object": "0" * 32, "size": 1, "sha256": "0" * 64}})
    with pytest.raises(IncompleteError, match="a manifest names the object"):
        manifest_from_dict({"file": {"object": "../0", "size": 1, "sha256": "0" * 64}})


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("shared", "--storage shared is neither an absolute directory nor a URL"),
        (
            "ftp://host/x",
            "--storage ftp://host/x is of an unknown kind ftp://; known are file://, s3://, gs://",
        ),
        ("file://shared/x", "names no absolute directory"),
        ("s3://", "--storage s3:// names no bucket; write s3://bucket/prefix"),
        ("s3://KEY:SE/CRET@bucket/x", "--storage s3://... has credentials in it"),
    ],
)
def test_what_can_be_no_storage_is_refused_with_the_command_line(url: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        SweepConfig(storage=url).check()
    assert "SE/CRET" not in str(error.value)


def test_a_storage_that_cannot_be_used_is_refused_in_a_sentence(server: ObjectServer, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"there is no such bucket\); check the address and the bucket, and "
    ):
        open_storage(f"s3://another/x?{server.query}")
    with pytest.raises(InputError, match="there is no such bucket"):
        open_storage(f"s3://another/x?{server.query}", writable=False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"s3://bucket/x?endpoint_override=127.0.0.1:{unused.getsockname()[1]}&scheme=http&region=r"
        with pytest.raises(InputError, match="nothing answers there"):
            open_storage(dead)
    with pytest.raises(
        InputError, match=r"cannot be used \(.*\); check the directory, and that you may write"
    ):
        open_storage("/proc/nowhere/x")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="check the directory"):
        open_storage(str(tmp_path / "file"))
    open_storage(str(tmp_path / "new directory"))
    assert not list((tmp_path / "new directory").iterdir()), "the probe is gone"


def test_a_sweep_is_resumed_with_its_own_storage_alone(tmp_path: Path) -> None:
    identify(tmp_path, SweepConfig(storage="s3://bucket/x"), {})
    identify(tmp_path, SweepConfig(storage="s3://bucket/x"), {})
    with pytest.raises(InputError, match="--storage was 's3://bucket/x' and is now 's3://bucket/y'"):
        identify(tmp_path, SweepConfig(storage="s3://bucket/y"), {})
    with pytest.raises(InputError, match="--storage was 's3://bucket/x' and is now None"):
        identify(tmp_path, SweepConfig(), {})


@pytest.fixture(scope="module")
def data() -> SplitData:
    return leave_one_out(synthetic_interactions(60, 40, 12, seed=1))


def trial_of(data: SplitData, tradeoff: float, *, retrain_epochs: int = 2) -> TrialConfig:
    return TrialConfig(
        space=CandidateSpace(8, 16, 2, 2, (0.0, 0.5), (0.0, 0.5)),
        search=SearchConfig(tradeoff=tradeoff, max_length=8, warmup_epochs=2, search_epochs=2, batch_size=16),
        retrain=RetrainConfig(max_length=8, max_epochs=retrain_epochs, patience=999, batch_size=16),
        transfer_from="warm",
        data_checksum=data.checksum,
        code_version="code",
        device="cpu",
        threads=1,
        warmup_threads=1,
    )


def figures(trial: TrialConfig, data: SplitData, store: Store) -> Any:
    """All that a trial found, but for the times it took, and the bytes of its network."""
    record = trial_record(trial, data, store, settings={}, tags={})
    assert record is not None
    metrics = {name: value for name, value in record.metrics.items() if not name.endswith("_s")}
    curves = {
        name: [(step, value) for step, _, value in curve]
        for name, curve in record.curves.items()
        if not name.endswith("_s")
    }
    files = {name: path.read_bytes() for name, path in record.artifacts.items()}
    return record.trial_id, record.architecture, record.params, metrics, curves, files


@pytest.mark.slow
def test_trials_are_equal_digit_for_digit_wherever_their_results_lie(
    tmp_path: Path, data: SplitData, server: ObjectServer
) -> None:
    found = []
    stores = [
        Store(tmp_path / "store"),
        store_at((tmp_path / "shared").as_uri()),
        store_at(server.url(f"equal/{tmp_path.name}")),
    ]
    for store in stores:
        for trial in (trial_of(data, 0.0), trial_of(data, 100.0)):
            warm_stage(trial, data, store)
            run_trial(trial, data, store)
        warm = store.entry("warm", trial.warm_key).path(SUPERNET).read_bytes()
        found.append(
            [warm, *(figures(trial, data, store) for trial in (trial_of(data, 0.0), trial_of(data, 100.0)))]
        )
    assert found[0] == found[1] == found[2]
    forget_cache(tmp_path)
    again = store_at(server.url(f"equal/{tmp_path.name}"))
    assert figures(trial, data, again) == found[0][-1], "read by a machine with an empty cache"


def train_alone(url: str, trial: TrialConfig) -> None:
    """Runs in a process of its own."""
    data = leave_one_out(synthetic_interactions(60, 40, 12, seed=1))
    store = store_at(url)
    warm_stage(trial, data, store)
    run_trial(trial, data, store)


@pytest.mark.slow
def test_a_retraining_that_was_killed_goes_on_from_its_checkpoint_out_of_s3(
    tmp_path: Path, data: SplitData, server: ObjectServer
) -> None:
    url = server.url(f"killed/{tmp_path.name}")
    trial = trial_of(data, 0.0, retrain_epochs=30)
    undisturbed = Store(tmp_path / "store")
    warm_stage(trial, data, undisturbed)
    run_trial(trial, data, undisturbed)
    process = SPAWN.Process(target=train_alone, args=(url, trial))
    process.start()
    objects = open_storage(url)
    deadline = time.monotonic() + 120
    epoch = 0
    while epoch < 3:
        assert process.is_alive() and time.monotonic() < deadline
        for key in objects.list("retrain")[1]:
            # Read while it is replaced, it may come out with the length of the one before.
            with suppress(json.JSONDecodeError, KeyError):
                epoch = json.loads(objects.read(f"retrain/{key}/checkpoint.json") or "{}")["report"]["epoch"]
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    killed_ms = now_ms()
    forget_cache(tmp_path)
    store = store_at(url)
    run_trial(trial, data, store)
    architecture = trial_architecture(trial, store)
    assert architecture is not None
    ended = [
        report["timestamp_ms"]
        for report in store.entry("retrain", trial.retrain_key(architecture)).value()["epochs"]
    ]
    before = sum(end <= killed_ms for end in ended)
    assert 3 <= before < len(ended) == 30, "the epochs before were not done again"
    assert figures(trial, data, store) == figures(trial, data, undisturbed)
