import json
import os
import pickle
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import easrec
from easrec.data.items import Items
from easrec.errors import InputError
from easrec.files import read_json, write_json
from easrec.models.architecture import Architecture
from easrec.models.transformer import SequentialRecommender
from easrec.serving import bundle
from easrec.serving.bundle import load_bundle, save_bundle
from easrec.serving.manifest import read_manifest, record_of, write_manifest
from tests.randomise import randomise

ARCHITECTURE = Architecture(8, 12, 2, 2)
NUM_ITEMS, MAX_LENGTH = 20, 6
FILES = ["architecture.json", "items.parquet", "model.onnx", "signature.json", "weights.safetensors"]


def _model(architecture=ARCHITECTURE, num_items=NUM_ITEMS, seed=0):
    return randomise(SequentialRecommender(architecture, num_items, MAX_LENGTH, dropout=0.3), seed)


def _items(num_items=NUM_ITEMS):
    own_ids = np.array(["", *(f"sku-{item}" for item in range(num_items))], dtype=object)
    return Items(own_ids, np.arange(num_items + 1))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "knee"
    return save_bundle(folder, _model(), _items(), files={"signature.json": '{"inputs": []}'})


@pytest.fixture
def folder(written, tmp_path):
    """A bundle to break."""
    return Path(shutil.copytree(written, tmp_path / "bundle"))


def _seal(folder, **changes):
    """Give a changed bundle a manifest that is right about it, but for what is changed there."""
    manifest = read_manifest(folder)
    files = {name: record_of(folder / name) for name in manifest.files if (folder / name).is_file()}
    write_manifest(folder, replace(manifest, files=files, **changes))


def _refused(folder, message):
    with pytest.raises(InputError, match=message) as caught:
        load_bundle(folder)
    text = str(caught.value)
    assert str(folder) in text
    assert "\n" not in text
    assert ": " in text  # what is wrong, then what to do


# What comes back.


def test_a_bundle_comes_back_as_it_was(folder):
    model, loaded = _model(), load_bundle(folder)
    assert loaded.directory == folder
    assert loaded.model.architecture == ARCHITECTURE
    assert (loaded.model.num_items, loaded.model.max_length) == (NUM_ITEMS, MAX_LENGTH)
    assert loaded.model.dropout == loaded.manifest.dropout == 0.3
    assert not loaded.model.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[name], value, rtol=0, atol=0)
    assert loaded.items.own_ids.tolist() == _items().own_ids.tolist()
    assert loaded.items.training_counts.tolist() == _items().training_counts.tolist()
    assert loaded.manifest.easrec_version == easrec.__version__
    assert loaded.manifest.architecture_id == ARCHITECTURE.architecture_id
    assert sorted(loaded.manifest.files) == FILES
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "manifest.json"])


def test_the_onnx_file_is_that_of_the_network(folder):
    item_ids, lengths = torch.tensor([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 6]]), torch.tensor([3, 6])
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"item_ids": item_ids.numpy(), "lengths": lengths.numpy()})
    with torch.no_grad():
        wanted = load_bundle(folder).model.scores(item_ids, lengths).numpy()
    np.testing.assert_allclose(found[:, 1:], wanted[:, 1:], rtol=0, atol=1e-4)


def test_further_files_may_be_text_bytes_or_copied(tmp_path):
    (tmp_path / "chart.png").write_bytes(b"\x89PNG")
    files = {"README.md": "ä model card", "raw.bin": b"\0\1", "chart.png": tmp_path / "chart.png"}
    folder = save_bundle(tmp_path / "deep" / "bundle", _model(), _items(), files=files)
    assert (folder / "README.md").read_text(encoding="utf-8") == "ä model card"
    assert (folder / "raw.bin").read_bytes() == b"\0\1"
    assert (folder / "chart.png").read_bytes() == b"\x89PNG"
    assert set(files) < set(load_bundle(folder).manifest.files)


def test_equal_networks_give_equal_bundles(written, tmp_path):
    again = save_bundle(tmp_path / "again", _model(), _items(), files={"signature.json": '{"inputs": []}'})
    assert (again / "manifest.json").read_bytes() == (written / "manifest.json").read_bytes()


def test_others_may_read_a_bundle_as_far_as_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        folder = save_bundle(tmp_path / "bundle", _model(), _items())
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}


def test_loading_changes_no_random_numbers(folder):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_bundle(folder)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_links_to_the_folder_and_inside_it_are_followed(folder):
    (folder.parent / "latest").symlink_to(folder)
    (folder / "signature.json").rename(folder / "kept.json")
    (folder / "signature.json").symlink_to("kept.json")
    assert load_bundle(folder.parent / "latest").items.num_items == NUM_ITEMS


# Damage.


@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found(name, where, folder):
    content = bytearray((folder / name).read_bytes())
    content[round(where * (len(content) - 1))] ^= 1
    (folder / name).write_bytes(content)
    _refused(folder, f"{name} is damaged or was changed, .*: copy the bundle again")


def test_no_flipped_bit_of_the_manifest_changes_what_is_read(folder):
    path, manifest = folder / "manifest.json", read_manifest(folder)
    content = path.read_bytes()
    for position in range(0, len(content), 2):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 7
        path.write_bytes(damaged)
        if content[position : position + 1].isspace():
            try:
                assert read_manifest(folder) == manifest
            except InputError:
                continue
        else:
            with pytest.raises(InputError):
                read_manifest(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_longer_file_is_found(name, folder):
    content = (folder / name).read_bytes()
    for other in (b"", content[:-1], content + b"\n"):
        (folder / name).write_bytes(other)
        _refused(folder, f"{name} is damaged, it has {len(other)} bytes and not {len(content)}: copy")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(name, folder):
    (folder / name).unlink()
    _refused(folder, f"{name} is missing: copy the bundle again")
    (folder / name).mkdir()
    _refused(folder, f"{name} is missing: copy the bundle again")


# Folders of something else.


def test_folders_of_something_else_are_refused(tmp_path):
    _refused(tmp_path / "nothing", "there is no bundle .*: name a folder that an export wrote")
    (tmp_path / "file").write_text("text")
    _refused(tmp_path / "file", "there is no bundle .*: name a folder that an export wrote")
    (tmp_path / "MLmodel").write_text("flavors: {}")
    _refused(tmp_path, r"is no bundle, it has no manifest\.json: name a folder that an export wrote")
    write_json(tmp_path / "manifest.json", {"name": "an app", "icons": []})
    _refused(tmp_path, r"is no bundle, its manifest\.json has format None and not 'easrec-bundle': name")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "3", "null", '"text"', "\xff", "[" * 100_000])
@pytest.mark.parametrize("name", ["manifest.json", "architecture.json"])
def test_json_that_is_no_object_is_refused(name, text, folder):
    (folder / name).write_bytes(text.encode("latin-1"))
    if name != "manifest.json":
        _seal(folder)
    told = r"cannot be read as JSON \(.*\)|is no JSON \(.*\): it has been .*|must hold a JSON object, got .*"
    _refused(folder, rf"{name} ({told}): export the")


def test_a_manifest_from_the_future_says_what_to_install(folder):
    future = {"format": "easrec-bundle", "format_version": 2, "easrec_version": "3.1.4", "networks": []}
    write_json(folder / "manifest.json", future)
    _refused(folder, r"has format version 2 and easrec .* reads up to 1: install easrec 3\.1\.4, which wrote")
    write_json(folder / "manifest.json", future | {"easrec_version": None})
    _refused(folder, "install a newer easrec, which wrote it")


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("format_version", "1", "a whole number"),
        ("format_version", 0, "at least 1"),
        ("num_items", True, "a whole number"),
        ("num_items", 20.0, "a whole number"),
        ("max_length", 0, "at least 1"),
        ("dropout", "0.2", "a number"),
        ("dropout", 1, r"in \[0, 1\)"),
        ("easrec_version", 1, "a text"),
        ("architecture_id", ["h8"], "a text"),
        ("files", ["weights.safetensors"], "an object"),
        ("files", {"weights.safetensors": "a" * 64}, "an object"),
        ("files", {"weights.safetensors": {"sha256": 3, "bytes": 3}}, "a text"),
        ("files", {"weights.safetensors": {"sha256": "a", "bytes": "3"}}, "a whole number"),
        ("sha256", None, "a text"),
    ],
)
def test_fields_of_another_kind_are_refused(field, value, rule, folder):
    path = folder / "manifest.json"
    values = read_json(path)
    write_json(path, values | {field: value})
    _refused(folder, rf"manifest\.json must be {rule}, got .*: export the bundle again")
    write_json(path, {name: kept for name, kept in values.items() if name != field})
    _refused(folder, rf"manifest\.json has no '{field}': export the bundle again")


def test_not_a_number_is_no_dropout(folder):
    text = (folder / "manifest.json").read_text().replace('"dropout": 0.3', '"dropout": NaN')
    (folder / "manifest.json").write_text(text)
    _refused(folder, r"'dropout' in .*manifest\.json must be in \[0, 1\), got nan")


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["format_version", "num_items", "dropout", "files", "bytes", "sha256", "x.json"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    )
)
def test_no_manifest_is_taken_for_another_error(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("bundle")
    if isinstance(value, dict):
        value = {"format": "easrec-bundle"} | value
    (folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(InputError):
        load_bundle(folder)


# Files outside of the folder.


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "a/b", "a\\b", "..", ".", "", "c:x", "a\0", "\ud800"], ids=ascii
)
def test_names_that_are_paths_are_refused(name, folder):
    (folder.parent / "secret").write_text("secret")
    manifest = read_manifest(folder)
    record = record_of(folder.parent / "secret")
    write_manifest(folder, replace(manifest, files=manifest.files | {name: record}))
    _refused(folder, "which is no name of a file in the folder itself: export the bundle again")


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json"])
def test_links_out_of_the_folder_are_refused(name, folder):
    outside = folder.parent / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    _refused(folder, f"{name} leads out of the bundle to {outside}: put a copy")


def test_links_in_a_circle_are_refused(folder):
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("model.onnx")
    _refused(folder, r"model\.onnx is missing")


# Parts that do not belong together, with checksums that are right.


def test_weights_of_another_architecture_are_refused(folder):
    save_file(_model(Architecture(8, 12, 1, 2)).state_dict(), folder / "weights.safetensors")
    _seal(folder)
    _refused(
        folder, r"weights\.safetensors has 1?\d+ parameters and h8-i12-l2-a2-linear-column-g2 with 20 items"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state | {"layers.0.feed_in.weight": torch.zeros(8, 12)},
            r"has shape \(8, 12\) and not",
        ),
        (
            lambda state: {name: value.half() for name, value in state.items()},
            "has dtype torch.float16 and not",
        ),
        (lambda state: {name.replace("gate", "port"): value for name, value in state.items()}, "is missing"),
        (lambda state: state | {"extra": torch.zeros(0)}, "extra is unknown"),
    ],
)
def test_other_weights_of_the_same_number_are_refused(change, message, folder):
    path = folder / "weights.safetensors"
    save_file(change({name: value.clone() for name, value in load_file(path).items()}), path)
    _seal(folder)
    _refused(folder, rf"weights\.safetensors does not hold the weights of h8-.* \(.*{message}.*\): export")


def test_a_number_of_items_that_fits_no_memory_is_refused_by_the_weights(folder):
    _seal(folder, num_items=10**15)
    _refused(folder, rf"with {10**15} items and 6 positions has \d+: export the bundle again")


def test_architectures_that_are_none_or_another_are_refused(folder):
    path = folder / "architecture.json"
    for values, message in (
        (
            Architecture(8, 12, 2, 4).to_dict(),
            "describes h8-i12-l2-a4-.* and manifest.json names h8-i12-l2-a2",
        ),
        ({"hidden_size": 8}, r"describes no architecture \(.*missing 3 required"),
        (ARCHITECTURE.to_dict() | {"width": 8}, r"describes no architecture \(.*no field 'width'"),
        (ARCHITECTURE.to_dict() | {"num_heads": 3}, r"describes no architecture \(hidden_size must be"),
    ):
        write_json(path, values)
        _seal(folder)
        _refused(folder, rf"architecture\.json {message}.*: export the bundle again")


def test_items_of_another_data_set_are_refused(folder):
    _items(21).save(folder / "items.parquet")
    _seal(folder)
    _refused(folder, r"items\.parquet has 21 items and manifest\.json says 20: export the bundle again")


@pytest.mark.parametrize("name", sorted(bundle.REQUIRED))
def test_a_manifest_that_leaves_out_a_file_is_refused(name, folder):
    (folder / name).unlink()
    _seal(folder)
    _refused(folder, rf"manifest\.json does not list {name}: export the bundle again")


class _Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["weights.safetensors", "items.parquet", "architecture.json", "model.onnx"])
@pytest.mark.parametrize("by_torch", [False, True])
def test_a_pickle_is_never_unpickled(by_torch, name, folder, tmp_path):
    trap = _Trap(tmp_path / "unpickled")
    if by_torch:
        torch.save({"weight": trap}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(trap))
    _seal(folder)
    if name == "model.onnx":
        load_bundle(folder)  # it is for others: only its checksum matters here
    else:
        _refused(folder, rf"{name} (is no file of|is no JSON|cannot be read as JSON)")
    assert not (tmp_path / "unpickled").exists()
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "unpickled").is_dir()


# Writing.


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_no_bundle_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("work")
    (tmp_path / "file").write_text("work")
    (tmp_path / "app").mkdir()
    write_json(tmp_path / "app" / "manifest.json", {"name": "an app"})
    for name in ("thesis", "file", "app"):
        with pytest.raises(InputError, match="exists and is no bundle that could be replaced: remove it, or"):
            save_bundle(tmp_path / name, _model(), _items(), overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == (tmp_path / "file").read_text() == "work"
    assert _names(tmp_path) == ["app", "file", "thesis"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "bundle").mkdir()
    assert load_bundle(save_bundle(tmp_path / "bundle", _model(), _items())).items.num_items == NUM_ITEMS
    assert _names(tmp_path) == ["bundle"]


def test_a_bundle_is_replaced_only_where_that_is_asked_for(folder):
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="holds a bundle already: overwrite it, or name another folder"):
        save_bundle(folder, _model(seed=1), _items())
    assert (folder / "manifest.json").read_bytes() == before
    save_bundle(folder, _model(seed=1), _items(), overwrite=True)
    assert "signature.json" not in _names(folder)
    torch.testing.assert_close(
        load_bundle(folder).model.item_embedding.weight,
        _model(seed=1).item_embedding.weight,
        rtol=0,
        atol=0,
    )
    assert _names(folder.parent) == ["bundle"]


def test_a_damaged_bundle_is_replaced_too(folder):
    (folder / "weights.safetensors").write_bytes(b"")
    (folder / "items.parquet").unlink()
    save_bundle(folder, _model(), _items(), overwrite=True)
    load_bundle(folder)


def test_a_bundle_with_files_of_others_is_not_replaced(folder):
    (folder / "notes.txt").write_text("work")
    with pytest.raises(
        InputError, match=r"notes\.txt is not part of the bundle there and would be lost: move"
    ):
        save_bundle(folder, _model(), _items(), overwrite=True)
    assert (folder / "notes.txt").read_text() == "work"


def test_a_link_to_a_bundle_stays_one(folder):
    (folder.parent / "latest").symlink_to(folder)
    assert save_bundle(folder.parent / "latest", _model(seed=1), _items(), overwrite=True) == folder
    assert (folder.parent / "latest").is_symlink()
    assert load_bundle(folder.parent / "latest").manifest == load_bundle(folder).manifest


@pytest.mark.parametrize("failing", ["save_weights", "write_onnx", "record_of", "write_manifest", "_flush"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_the_old_bundle_and_nothing_else(error, failing, folder, monkeypatch):
    def fail(*args):
        raise error

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(bundle, failing, fail)
    for name in ("bundle", "new"):
        with pytest.raises(type(error)):
            save_bundle(folder.parent / name, _model(seed=1), _items(), overwrite=True)
    assert _names(folder.parent) == ["bundle"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("failing", ["replace", "rename"])
def test_an_old_bundle_comes_back_where_the_new_one_cannot_be_moved(failing, folder, monkeypatch):
    moves = getattr(os, failing)

    def fail(source, target):
        # Files are moved too, into the new folder.
        if Path(source).is_dir():
            monkeypatch.setattr(os, failing, moves)
            raise OSError("no permission")
        moves(source, target)

    monkeypatch.setattr(os, failing, fail)
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(OSError, match="no permission"):
        save_bundle(folder, _model(seed=1), _items(), overwrite=True)
    assert (folder / "manifest.json").read_bytes() == before
    load_bundle(folder)
    assert _names(folder.parent) == ["bundle"]


def test_the_old_bundle_stays_until_the_new_one_is_whole(folder, monkeypatch):
    seen = []

    def move(new, directory):
        assert load_bundle(directory).manifest != load_bundle(new).manifest
        seen.append(new)
        real(new, directory)

    real = bundle._move
    monkeypatch.setattr(bundle, "_move", move)
    save_bundle(folder, _model(seed=1), _items(), overwrite=True)
    assert len(seen) == 1


def test_a_network_and_items_of_different_data_are_refused(tmp_path):
    with pytest.raises(
        InputError, match="knows 20 items and there are ids of 21: give the items of the data"
    ):
        save_bundle(tmp_path / "bundle", _model(), _items(21))
    assert _names(tmp_path) == []


@pytest.mark.parametrize("name", ["../README.md", "/README.md", "", "..", "manifest.json", "model.onnx"])
def test_further_files_need_plain_names_of_their_own(name, tmp_path):
    with pytest.raises(ValueError, match="needs a plain name of its own, got"):
        save_bundle(tmp_path / "bundle", _model(), _items(), files={name: "text"})
    assert _names(tmp_path) == []


def test_a_further_file_that_is_missing_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"card\.md"):
        save_bundle(tmp_path / "bundle", _model(), _items(), files={"README.md": tmp_path / "card.md"})
    assert _names(tmp_path) == []
