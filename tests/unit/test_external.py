"""Manifests and map files of other tools: what is read, and what is said about the rest."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aha_core.errors import AttributionError
from aha_core.external import Entry, check_maps, read_manifest, read_maps

MAP = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def folder(tmp_path) -> Path:
    np.save(tmp_path / "a.npy", MAP)
    np.savez(tmp_path / "all.npz", b=MAP[None] - 5, c=MAP[..., None].astype(np.float16), d=MAP.astype(np.float64))
    Image.fromarray(MAP.astype(np.uint8)).save(tmp_path / "e.png")
    Image.fromarray((1000 * MAP).astype(np.uint16)).save(tmp_path / "f.png")
    return tmp_path


def manifest(folder: Path, text: str) -> None:
    (folder / "manifest.csv").write_text(text)


def test_every_type_is_read(folder):
    manifest(folder, "image,file,key,class\n1,a.npy,,\n2,all.npz,b,cat\n3,all.npz,c,\n5,e.png,,\n6,f.png,,3\n")
    entries = read_manifest(folder)
    assert [one.class_name for one in entries] == ["", "cat", "", "", "3"]
    check_maps(entries, (3, 4))
    maps = read_maps(entries, (3, 4))
    expected = torch.from_numpy(MAP)
    for one, shift, scale in zip(maps, (0, -5, 0, 0, 0), (1, 1, 1, 1, 1000), strict=True):
        torch.testing.assert_close(one[0], scale * expected + shift)
    assert read_maps([Entry("4", folder / "all.npz", "d", "")], (3, 4)).dtype == torch.float64


def test_short_manifests_and_archives_of_one(folder):
    np.savez(folder / "one.npz", anything=MAP)
    manifest(folder, "image,file\n1,one.npz\n")
    assert read_maps(read_manifest(folder), (3, 4)).shape == (1, 1, 3, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "columns none"),
        ("picture,file\n1,a.npy\n", "columns picture, file; needed: image, file"),
        ("image,file,colour\n1,a.npy,red\n", "columns image, file, colour"),
        ("image,file\n", "lists no map"),
        ("image,file\n1,a.npy\n1,e.png\n", "line 3: image '1' is listed twice"),
        ("image,file\n1,gone.npy\n", "line 2: no file gone.npy"),
        ("image,file\n1,../a.npy\n", "line 2: ../a.npy lies outside the folder"),
    ],
)
def test_bad_manifests(folder, text, words):
    manifest(folder, text)
    with pytest.raises(AttributionError) as caught:
        read_manifest(folder)
    assert words in str(caught.value)


def test_no_manifest(tmp_path):
    with pytest.raises(AttributionError, match="no manifest.csv .*write one with the columns image, file, key, class"):
        read_manifest(tmp_path)


def bad_files(folder: Path) -> dict[str, str]:
    """File name to what must be said about it."""
    holes = MAP.copy()
    holes[0, :2] = np.nan, np.inf
    np.save(folder / "holes.npy", holes)
    np.save(folder / "small.npy", MAP[:2])
    np.save(folder / "colour.npy", np.ones((3, 4, 3)))
    np.save(folder / "complex.npy", MAP * 1j)
    np.save(folder / "objects.npy", np.array([None]), allow_pickle=True)
    (folder / "torn.npy").write_bytes((folder / "a.npy").read_bytes()[:100])
    (folder / "torn.npz").write_bytes((folder / "all.npz").read_bytes()[:100])
    (folder / "torn.png").write_bytes(b"no picture")
    (folder / "map.tif").write_bytes(b"")
    Image.new("RGB", (4, 3)).save(folder / "rgb.png")
    return {
        "holes.npy": "2 of 12 values are NaN or infinite", "small.npy": "shape (2, 4) instead of (3, 4); enlarge",
        "colour.npy": "sum or average the channels", "complex.npy": "real numbers", "objects.npy": "cannot be read",
        "torn.npy": "cannot be read", "torn.npz": "cannot be read", "torn.png": "cannot be read",
        "map.tif": "unknown type '.tif'", "rgb.png": "RGB picture", "all.npz": "no array 'z'; the archive has b, c, d",
    }  # fmt: skip


def test_bad_files_are_named_with_the_reason(folder):
    for name, words in bad_files(folder).items():
        with pytest.raises(AttributionError) as caught:
            check_maps([Entry("img.png", folder / name, "z", "")], (3, 4))
        assert f"{name} [z] for img.png" in str(caught.value) and words in str(caught.value), str(caught.value)


def test_many_problems_are_counted(folder):
    bad_files(folder)
    entries = [Entry(str(place), folder / "holes.npy", "", "") for place in range(8)]
    with pytest.raises(AttributionError, match="and 3 more"):
        check_maps(entries, (3, 4))
