import errno
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from aha_core.errors import ResourceError
from aha_core.files import array_writer, atomic_json, atomic_path, atomic_safetensors


def test_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    goal = tmp_path / "a.json"
    atomic_json(goal, {"x": 1})
    with pytest.raises(RuntimeError), atomic_path(goal) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert goal.read_text() == '{\n  "x": 1\n}\n'
    assert list(tmp_path.iterdir()) == [goal]


def test_full_disk_names_the_remedy(tmp_path):
    with (
        pytest.raises(ResourceError, match="no space left while writing a.bin; free some"),
        atomic_path(tmp_path / "a.bin"),
    ):
        raise OSError(errno.ENOSPC, "no space")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError, match=r"cannot write .*folder: Is a directory; choose another place"):
        atomic_json(tmp_path / "folder", {})
    atomic_json(tmp_path / "file", {})
    for goal in ("file/a.json", "file/b/a.json", "n" * 260):
        with pytest.raises(ResourceError, match=r"cannot write .*; choose another place"):
            atomic_json(tmp_path / goal, {})
    with pytest.raises(PermissionError), atomic_path(tmp_path / "a.bin"):  # of another file
        raise PermissionError(errno.EACCES, "denied", "elsewhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_file_names_of_another_encoding_survive_json(tmp_path):
    atomic_json(tmp_path / "a.json", {"file": "caf\udce9 é"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"file": "caf\udce9 é"}


def test_array_writer_appends_pieces(tmp_path):
    pieces = [np.arange(6.0).reshape(1, 2, 3), np.ones((2, 2, 3))]
    with array_writer(tmp_path / "a.npy", (3, 2, 3), np.float32) as append:
        for piece in pieces:
            append(piece)
    loaded = np.load(tmp_path / "a.npy")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, np.concatenate(pieces))


def test_array_writer_refuses_an_incomplete_array(tmp_path):
    with (
        pytest.raises(ValueError, match="3 values written"),
        array_writer(tmp_path / "a.npy", (4,), np.int64) as append,
    ):
        append(np.arange(3))
    assert list(tmp_path.iterdir()) == []


def test_weights_are_readable_for_whom_the_files_beside_them_are(tmp_path):
    atomic_json(tmp_path / "a.json", {})
    atomic_safetensors(tmp_path / "a.safetensors", {"x": torch.arange(6.0).reshape(2, 3).T}, {"k": "v"})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "a.json").stat().st_mode
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"k": "v"}
        assert file.get_tensor("x").tolist() == [[0, 3], [1, 4], [2, 5]]
