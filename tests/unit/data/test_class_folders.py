"""Class folders: both layouts, stable splits, and every unusable folder with a message that helps."""

from __future__ import annotations

import os
import shutil

import pytest
from sample_images import data_config, write_image

from aha_core.data.dataset import PreparedImages
from aha_core.data.folder import find_classes
from aha_core.data.prepare import prepare_folder
from aha_core.data.prepared import read_index
from aha_core.errors import AhaError, ConfigError, DataError


def names(out, split):
    return read_index(out, split)["name"].to_pylist()


def test_class_folders_are_split_by_class_without_overlap(class_folders, tmp_path):
    manifest = prepare_folder(data_config(class_folders), 1, tmp_path / "out")
    assert manifest["class_names"] == ["cat", "dog"]
    assert manifest["counts"] == {
        "train": {"cat": 4, "dog": 4},
        "val": {"cat": 2, "dog": 2},
        "test": {"cat": 2, "dog": 2},
    }
    parts = [names(tmp_path / "out", split) for split in ("train", "val", "test")]
    assert len(set().union(*parts)) == 16


def test_train_and_val_folders(tmp_path):
    for name in ("cat", "dog"):
        for index in range(8):
            write_image(tmp_path / "root/train" / name / f"{index}.png", seed=index)
        write_image(tmp_path / "root/val" / name / "a.png")
    manifest = prepare_folder(data_config(tmp_path / "root"), 1, tmp_path / "out")
    assert manifest["images"] == {"train": 12, "val": 4, "test": 2}
    assert names(tmp_path / "out", "test") == ["val/cat/a.png", "val/dog/a.png"]
    assert all(name.startswith("train/") for name in names(tmp_path / "out", "val"))


def test_the_split_depends_on_seed_and_names_only(class_folders, tmp_path):
    prepare_folder(data_config(class_folders), 1, tmp_path / "a")
    prepare_folder(data_config(class_folders), 1, tmp_path / "b", threads=2)
    for file in ("manifest.json", "index.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    prepare_folder(data_config(class_folders), 2, tmp_path / "c")
    assert names(tmp_path / "a", "val") != names(tmp_path / "c", "val")


def test_nested_folders_and_upper_case_endings_count_hidden_and_other_files_do_not(class_folders, tmp_path):
    write_image(class_folders / "cat/more/x.JPG")
    write_image(class_folders / "cat/.hidden.png")
    write_image(class_folders / "cat/.cache/y.png")
    write_image(class_folders / ".thumbnails/z.png")
    (class_folders / "cat/notes.txt").write_text("no image")
    (class_folders / "labels.csv").write_text("no class")
    found = find_classes(class_folders)[""]
    assert list(found) == ["cat", "dog"]
    assert len(found["cat"]) == 9
    assert "cat/more/x.JPG" in found["cat"]


def test_root_is_stored_as_written(class_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("AHA_TEST_IMAGES", str(class_folders.parent))
    manifest = prepare_folder(data_config("$AHA_TEST_IMAGES/images"), 1, tmp_path / "out")
    assert manifest["root"] == "$AHA_TEST_IMAGES/images"
    assert str(tmp_path).encode() not in (tmp_path / "out/manifest.json").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "out/index.parquet").read_bytes()


def test_small_images_are_counted(class_folders, tmp_path):
    write_image(class_folders / "cat/small.png", size=(15, 40))
    assert prepare_folder(data_config(class_folders), 1, tmp_path / "out")["enlarged"] == 1


def test_digest_follows_the_content(class_folders, tmp_path):
    before = prepare_folder(data_config(class_folders), 1, tmp_path / "a")["digest"]
    write_image(class_folders / "cat/0.png", seed=99)
    assert prepare_folder(data_config(class_folders), 1, tmp_path / "b")["digest"] != before


def test_a_few_unreadable_files_are_listed_and_skipped(class_folders, tmp_path):
    (class_folders / "cat/broken.jpg").write_bytes(b"\xff\xd8\xff junk")
    manifest = prepare_folder(data_config(class_folders), 1, tmp_path / "out")
    assert [one["name"] for one in manifest["skipped"]] == ["cat/broken.jpg"]
    assert manifest["skipped"][0]["reason"]
    assert sum(manifest["images"].values()) == 16


def test_names_of_another_encoding_are_skipped(class_folders, tmp_path):
    (class_folders / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes((class_folders / "cat/0.png").read_bytes())
    manifest = prepare_folder(data_config(class_folders), 1, tmp_path / "out")
    assert manifest["skipped"] == [{"name": "cat/caf?.png", "reason": "the file's name is not UTF-8; rename it"}]
    assert sum(manifest["images"].values()) == 16


def test_truncated_jpegs_are_found(class_folders, tmp_path):
    file = write_image(class_folders / "cat/cut.jpg", size=(64, 64))
    file.write_bytes(file.read_bytes()[:900])
    manifest = prepare_folder(data_config(class_folders), 1, tmp_path / "out")
    assert [one["name"] for one in manifest["skipped"]] == ["cat/cut.jpg"]
    assert "truncated" in manifest["skipped"][0]["reason"]


def test_too_many_unreadable_files(class_folders, tmp_path):
    for index in range(7):
        (class_folders / f"dog/bad{index}.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        prepare_folder(data_config(class_folders), 1, tmp_path / "out")
    message = str(caught.value)
    assert "7 of 23 images cannot be read, allowed are 10.00%" in message
    assert "dog/bad0.png: not an image" in message
    assert "and 2 more" in message
    assert "raise data.folder.max_unreadable" in message


def test_progress_sees_every_file(class_folders, tmp_path):
    seen = []

    def progress(iterable, total, description):
        seen.append((total, description))
        return iterable

    prepare_folder(data_config(class_folders), 1, tmp_path / "out", progress)
    assert seen == [(16, "checking images")]


def broken(root, case):
    """Make one thing wrong; returns the parameters and the message."""
    if case == "missing root":
        return data_config(root / "nowhere"), "no folder .*nowhere; correct the path"
    if case == "no root":
        return data_config("x").model_copy(update={"folder": data_config().folder}), "root is empty; set it"
    if case == "no classes":
        shutil.rmtree(root / "cat")
        shutil.rmtree(root / "dog")
        return data_config(root), "no class folders in"
    if case == "one class":
        shutil.rmtree(root / "cat")
        return data_config(root), r"one class only \(dog\).*at least two"
    if case == "empty class":
        (root / "emu").mkdir()
        return data_config(root), "no images in class folder .*emu; add images or remove"
    if case == "half a layout":
        (root / "train").mkdir()
        return data_config(root), "has train but not both train and val"
    if case == "fraction":
        return data_config(root, val_fraction=0.5), "val_fraction = 0.5: without train/ and val/"
    if case == "everything held out":
        for name in ("train/cat/a.png", "train/dog/a.png", "val/cat/a.png"):
            write_image(root / "both" / name)
        return data_config(root / "both", val_fraction=1), "leaves no training images"
    write_image(root / "emu/a.png")
    return data_config(root), "class emu has 1 readable images, needs at least 3"


@pytest.mark.parametrize(
    "case",
    [
        "missing root", "no root", "no classes", "one class", "empty class", "half a layout", "fraction",
        "everything held out", "too few images",
    ],
)  # fmt: skip
def test_unusable_folders_name_the_problem_and_the_remedy(class_folders, tmp_path, case):
    config, message = broken(class_folders, case)
    with pytest.raises(DataError, match=message):
        prepare_folder(config, 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unset_variables_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("AHA_NOT_SET", raising=False)
    with pytest.raises(ConfigError, match="AHA_NOT_SET is not set"):
        prepare_folder(data_config("$AHA_NOT_SET/images"), 1, tmp_path / "out")
    assert issubclass(ConfigError, AhaError)


def test_a_class_of_val_alone_is_tested_and_not_learnt(tmp_path):
    root = tmp_path / "images"
    for name in ("train/cat/a.png", "train/dog/a.png", "val/cow/a.png"):
        write_image(root / name)
    manifest = prepare_folder(data_config(root, val_fraction=0), 0, tmp_path / "out")
    assert manifest["class_names"] == ["cat", "cow", "dog"]
    assert PreparedImages(tmp_path / "out", "test").labels.tolist() == [1]
    assert PreparedImages(tmp_path / "out", "train").labels.tolist() == [0, 2]
