"""Masks and boxes of class folders: the geometry of their images, images without one, and every unusable file."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from sample_images import data_config, write_image

from aha_core.data.dataset import PreparedImages
from aha_core.data.prepare import prepare_folder, prepare_synthetic
from aha_core.data.prepared import SPLITS, read_index, read_manifest
from aha_core.errors import ConfigError, DataError

FIRST = "cat/0.png"
GREY = np.zeros((16, 20), np.uint8)
GREY[4:8, 5:15] = 7


def save(file, values, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(file, **options)
    return file


def boxes(tmp_path, *rows, head="image,x0,y0,x1,y1"):
    file = tmp_path / "boxes.csv"
    file.write_text("\n".join([head, *rows]) + "\n")
    return file


def prepared(tmp_path, root, out="out", **folder):
    prepare_folder(
        data_config(root, **{name: place and str(place) for name, place in folder.items()}), 1, tmp_path / out
    )
    return tmp_path / out


def find(out, name):
    """Dataset and place of an image."""
    for split in SPLITS:
        images = PreparedImages(out, split)
        for i in range(len(images)):
            if images.name(i) == name:
                return images, i
    raise AssertionError(name)


def of_images(root, values, count=3):
    """Two classes of images that all show these values."""
    for name in [f"{kind}/{index}.png" for kind in ("cat", "dog") for index in range(count)]:
        save(root / name, np.repeat(values[:, :, None], 3, axis=2))
    return root


@pytest.mark.parametrize(
    ("rule", "width", "height", "factors"),
    [
        ("squash", 32, 48, (3, 2)), ("squash", 16, 16, (1, 1)), ("squash", 80, 16, (1, 5)), ("squash", 8, 4, (4, 2)),
        ("crop", 48, 80, (3, 3)), ("crop", 16, 16, (1, 1)), ("crop", 21, 16, (1, 1)), ("crop", 16, 21, (1, 1)),
        ("crop", 7, 4, (4, 4)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["masks", "boxes"])
def test_objects_go_through_the_geometry_of_their_images(tmp_path, rule, width, height, factors, kind):
    """White on black where the object is: the image at the input size shows the mask that belongs to it."""
    values = np.zeros((height, width), np.uint8)
    y0, x0, y1, x1 = (height // 4, width // 2, height - height // 4, width - width // 8)
    values[y0:y1, x0:x1] = 255
    root = of_images(tmp_path / "images", values)
    save(tmp_path / "masks" / FIRST, values // 255)
    place = {"masks": tmp_path / "masks", "boxes": boxes(tmp_path, f"{FIRST},{x0},{y0},{x1},{y1}")}[kind]
    config = data_config(root, resize=rule, **{kind: str(place)})
    prepare_folder(config, 1, tmp_path / "out")
    images, i = find(tmp_path / "out", FIRST)
    mask = images.mask(i)
    assert mask.shape == (16, 16) and mask.any() and not mask.all()
    enlarged = min(width, height) < 16
    if not enlarged:  # which rounds the corners of the image
        assert torch.equal(mask, images.image(i)[0] > 127)
    if rule == "crop":
        side = min(width, height)
        top, left = (int(round((length - side) / 2)) for length in (height, width))
        values = values[top : top + side, left : left + side]
    down, across = factors
    if enlarged:
        expected = values.repeat(down, axis=0).repeat(across, axis=1)
    else:
        expected = values[down // 2 :: down, across // 2 :: across]
    np.testing.assert_array_equal(mask.numpy(), expected > 0)


def test_images_without_a_mask_have_none(class_folders, tmp_path):
    save(tmp_path / "masks/cat/0.png", GREY)
    save(tmp_path / "masks/dog/3.bmp", GREY)
    save(tmp_path / "masks/emu/3.png", GREY)
    out = prepared(tmp_path, class_folders, masks=tmp_path / "masks")
    assert read_manifest(out)["objects"]["images"] == 2
    known = {}
    for split in SPLITS:
        images = PreparedImages(out, split)
        known |= {images.name(i): images.mask(i) for i in range(len(images))}
        assert all(images.void(i) is None for i in range(len(images)))
    assert {name for name, mask in known.items() if mask is not None} == {"cat/0.png", "dog/3.png"}


def test_an_object_that_the_crop_cuts_away_is_none(tmp_path):
    root = of_images(tmp_path / "images", np.zeros((16, 40), np.uint8))
    table = boxes(tmp_path, "cat/0.png,0,0,12,16", "cat/1.png,0,0,13,16", "cat/2.png,28,0,40,16")
    out = prepared(tmp_path, root, boxes=table, resize="crop")
    masks = [images.mask(i) for images, i in (find(out, f"cat/{index}.png") for index in range(3))]
    assert masks[0] is None and masks[2] is None
    assert masks[1].sum() == 16 and masks[1][:, 0].all()


def test_an_empty_mask_is_none(class_folders, tmp_path):
    save(tmp_path / "masks" / FIRST, np.zeros_like(GREY))
    images, i = find(prepared(tmp_path, class_folders, masks=tmp_path / "masks"), FIRST)
    assert images.mask(i) is None


def test_boxes_of_an_image_are_joined_and_ends_are_exclusive(tmp_path):
    root = of_images(tmp_path / "images", np.zeros((16, 16), np.uint8))
    table = boxes(
        tmp_path, "1,cat/0.png,2,3,5,4", "9,cat/0.png,4,3,6,5", "9,dog/1.png,0,0,16,16", head="id,image,x0,y0,x1,y1"
    )
    out = prepared(tmp_path, root, boxes=table)
    images, i = find(out, "cat/0.png")
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[3, 2:6] = expected[4, 4:6] = True
    assert torch.equal(images.mask(i), expected)
    images, i = find(out, "dog/1.png")
    assert images.mask(i).all()


@pytest.mark.parametrize("form", ["grey", "sixteen bits", "palette", "one bit", "jpeg", "tiff"])
def test_forms_of_masks(tmp_path, form):
    root = of_images(tmp_path / "images", np.zeros((16, 16), np.uint8))
    values = np.zeros((16, 16), np.uint8)
    values[8:] = 1
    images = {
        "grey": ("png", Image.fromarray(values)),
        "sixteen bits": ("png", Image.fromarray(values.astype(np.uint16) * 700)),
        "one bit": ("png", Image.fromarray(values * 255).convert("1")),
        "jpeg": ("JPG", Image.fromarray(values * 200)),
        "tiff": ("tif", Image.fromarray(values * 3)),
        "palette": ("png", Image.fromarray(values)),
    }
    ending, image = images[form]
    if form == "palette":
        image.putpalette([255, 255, 255, 0, 0, 0])  # the index counts, not the colour
    (tmp_path / "masks/cat").mkdir(parents=True)
    image.save(tmp_path / f"masks/cat/0.{ending}", format="JPEG" if ending == "JPG" else None)
    images, i = find(prepared(tmp_path, root, masks=tmp_path / "masks"), FIRST)
    np.testing.assert_array_equal(images.mask(i).numpy(), values > 0)


def test_void_pixels_are_neither_object_nor_outside(tmp_path):
    root = of_images(tmp_path / "images", np.zeros((16, 16), np.uint8))
    values = np.zeros((16, 16), np.uint8)
    values[4:12, 4:12], values[6:10, 6:10] = 255, 15
    save(tmp_path / "masks" / FIRST, values)
    config = data_config(root, masks=str(tmp_path / "masks"), void=255)
    prepare_folder(config, 1, tmp_path / "void")
    images, i = find(tmp_path / "void", FIRST)
    np.testing.assert_array_equal(images.mask(i).numpy(), values == 15)
    np.testing.assert_array_equal(images.void(i).numpy(), values == 255)
    images, i = find(prepared(tmp_path, root, masks=tmp_path / "masks"), FIRST)
    np.testing.assert_array_equal(images.mask(i).numpy(), values > 0)
    assert images.void(i) is None


def test_masks_and_boxes_are_upright(tmp_path):
    """EXIF orientation 6 turns a stored 16 x 32 image into 32 x 16."""
    root = of_images(tmp_path / "images", np.zeros((16, 32), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / "cat/0.png", np.zeros((32, 16, 3), np.uint8), exif=exif)
    left = np.zeros((16, 32), np.uint8)
    left[:, :16] = 1
    save(tmp_path / "masks" / FIRST, left)
    images, i = find(prepared(tmp_path, root, "a", masks=tmp_path / "masks"), FIRST)
    assert images.mask(i)[:, :8].all() and not images.mask(i)[:, 8:].any()
    table = boxes(tmp_path, "cat/0.png,16,0,32,16")
    images, i = find(prepared(tmp_path, root, "b", boxes=table), FIRST)
    assert images.mask(i)[:, 8:].all() and not images.mask(i)[:, :8].any()


def test_train_and_val_folders_have_masks_of_the_same_layout(tmp_path):
    for name in ("train/cat/a.png", "train/dog/a.png", "val/cat/a.png", "val/dog/a.png"):
        write_image(tmp_path / "images" / name)
    save(tmp_path / "masks/val/cat/a.png", GREY)
    out = prepared(tmp_path, tmp_path / "images", masks=tmp_path / "masks", val_fraction=0)
    test, train = PreparedImages(out, "test"), PreparedImages(out, "train")
    assert test.mask(0) is not None and test.mask(1) is None and train.mask(0) is None


def test_class_folders_of_masks_may_be_links(class_folders, tmp_path):
    save(tmp_path / "elsewhere/0.png", GREY)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/cat").symlink_to(tmp_path / "elsewhere")
    images, i = find(prepared(tmp_path, class_folders, masks=tmp_path / "masks"), FIRST)
    assert images.mask(i) is not None


def test_paths_are_stored_as_written(class_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("AHA_TEST_MASKS", str(tmp_path))
    save(tmp_path / "masks" / FIRST, GREY)
    boxes(tmp_path, "cat/0.png,0,0,20,16")
    for kind, place in (("masks", "$AHA_TEST_MASKS/masks"), ("boxes", "$AHA_TEST_MASKS/boxes.csv")):
        prepare_folder(data_config("$AHA_TEST_MASKS/images", **{kind: place}), 1, tmp_path / kind[:2])
        text = (tmp_path / kind[:2] / "manifest.json").read_text()
        assert json.loads(text)["objects"][kind] == place and str(tmp_path) not in text
        images, i = find(tmp_path / kind[:2], FIRST)
        assert images.mask(i) is not None


def test_the_same_bytes_whatever_the_threads(class_folders, tmp_path):
    for index in range(8):
        save(tmp_path / f"masks/cat/{index}.png", np.roll(GREY, index))
    config = data_config(class_folders, masks=str(tmp_path / "masks"))
    prepare_folder(config, 1, tmp_path / "a")
    prepare_folder(config, 1, tmp_path / "b", threads=3)
    for file in ("manifest.json", "index.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_digest_follows_masks_and_boxes(class_folders, tmp_path):
    def digest(out, **folder):
        return read_manifest(prepared(tmp_path, class_folders, out, **folder))["digest"]

    save(tmp_path / "masks" / FIRST, GREY)
    found = [digest("a"), digest("b", masks=tmp_path / "masks")]
    assert "objects" not in read_manifest(tmp_path / "a")
    save(tmp_path / "masks" / FIRST, np.roll(GREY, 1))
    found.append(digest("c", masks=tmp_path / "masks"))
    found.append(digest("d", boxes=boxes(tmp_path, "cat/0.png,0,0,20,16")))
    found.append(digest("e", boxes=boxes(tmp_path, "cat/0.png,0,0,20,15")))
    assert len(set(found)) == 5


def test_changes_since_preparation_are_noticed(class_folders, tmp_path):
    file = save(tmp_path / "masks" / FIRST, GREY)
    table = boxes(tmp_path, "cat/0.png,0,0,20,16")
    by_mask = prepared(tmp_path, class_folders, "a", masks=tmp_path / "masks")
    by_box = prepared(tmp_path, class_folders, "b", boxes=table)
    save(file, GREY, optimize=True)
    images, i = find(by_mask, FIRST)
    assert images.mask(i) is not None  # the same pixels
    message = f"the mask or boxes of {FIRST} have changed since preparation; run `aha prepare`"
    save(file, np.roll(GREY, 2))
    with pytest.raises(DataError, match=message):
        find(by_mask, FIRST)[0].mask(i)
    file.unlink()
    with pytest.raises(DataError, match=message):
        find(by_mask, FIRST)[0].mask(i)
    boxes(tmp_path, "cat/0.png,0,0,20,16", "cat/1.png,0,0,20,16")
    images, i = find(by_box, "cat/1.png")
    with pytest.raises(DataError, match="boxes of cat/1.png have changed"):
        images.mask(i)
    images, i = find(by_box, FIRST)
    assert images.mask(i).all()
    table.unlink()
    with pytest.raises(DataError, match="no file .*boxes.csv; correct the path"):
        find(by_box, FIRST)[0].mask(i)


def test_training_does_not_need_the_masks(class_folders, tmp_path):
    table = boxes(tmp_path, "cat/0.png,0,0,20,16")
    out = prepared(tmp_path, class_folders, boxes=table)
    table.unlink()
    assert PreparedImages(out, "train").image(0).shape == (3, 16, 16)


def test_workers_open_masks_themselves(class_folders, tmp_path):
    save(tmp_path / "masks" / FIRST, GREY)
    images, i = find(prepared(tmp_path, class_folders, masks=tmp_path / "masks"), FIRST)
    mask = images.mask(i)
    again = pickle.loads(pickle.dumps(images))
    assert "_objects" not in again.__dict__ and torch.equal(again.mask(i), mask)


def test_drawn_images_have_no_void(tmp_path):
    prepare_synthetic(data_config(), 4, tmp_path)
    images = PreparedImages(tmp_path, "test")
    assert images.void(0) is None and images.mask(0) is not None
    assert set(read_index(tmp_path, "test")["object"].to_pylist()) == {""}


def test_masks_or_boxes(tmp_path):
    with pytest.raises(ValueError, match="masks and boxes are both set; empty one of them"):
        data_config(tmp_path, masks="/a", boxes="/b.csv")


@pytest.mark.parametrize("parameter", ["masks", "boxes"])
def test_places_that_are_not_there(class_folders, tmp_path, monkeypatch, parameter):
    monkeypatch.delenv("AHA_NOT_SET", raising=False)
    for place, error, words in [
        ("here", DataError, f"data.folder.{parameter} = 'here': expected an absolute path"),
        ("$AHA_NOT_SET/x", ConfigError, f"data.folder.{parameter} .*AHA_NOT_SET is not set"),
        (str(tmp_path / "nowhere"), DataError, f"data.folder.{parameter} = .*: no (folder|file) .*nowhere; correct"),
    ]:
        with pytest.raises(error, match=words):
            prepared(tmp_path, class_folders, **{parameter: place})
    assert not (tmp_path / "out").exists()


def spoil(file, case):
    """Make one thing wrong with a mask; returns the message."""
    if case == "another size":
        save(file, GREY[:, :16])
        return r"mask .*cat/0.png has 16 x 16 pixels, its image cat/0.png has 20 x 16; save the mask at the size"
    if case == "turned":
        save(file, GREY.T.copy())
        return r"has 16 x 20 pixels, its image cat/0.png has 20 x 16"
    if case == "no image":
        file.write_text("x")
        return r"mask .*cat/0.png: not an image that can be read; replace or remove this mask"
    if case == "cut short":
        file.write_bytes(file.read_bytes()[:50])
        return r"mask .*cat/0.png: .*; replace or remove this mask"
    if case == "colours":
        save(file, np.zeros((16, 20, 3), np.uint8))
        return r"mask .*cat/0.png: mode RGB, expected one channel: grey, palette or 1-bit; replace"
    if case == "two of them":
        save(file.with_suffix(".bmp"), GREY)
        return r"cat/0.png has several masks in .*cat: 0.bmp, 0.png; keep one"
    if case == "a folder":
        file.unlink()
        file.mkdir()
        return r"cannot read mask .*cat/0.png \(Is a directory\); restore or remove it"
    file.rename(file.with_name("zero.png"))
    return r"no image has a mask below .*, where .*masks/cat/0.png would be that of cat/0.png; correct"


@pytest.mark.parametrize(
    "case",
    ["another size", "turned", "no image", "cut short", "colours", "two of them", "a folder", "of no image"],
)
def test_unusable_masks_name_the_file_and_the_remedy(class_folders, tmp_path, case):
    message = spoil(save(tmp_path / "masks" / FIRST, GREY), case)
    with pytest.raises(DataError, match=message):
        prepared(tmp_path, class_folders, masks=tmp_path / "masks")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("cat/1.png,-1,0,5,5", r"line 3: box -1,0,5,5 of cat/1.png; expected 0 <= x0 < x1 <= 20 and 0 <= y0 <"),
        ("cat/1.png,0,0,21,5", r"line 3: box 0,0,21,5"),
        ("cat/1.png,0,0,5,17", r"line 3: box 0,0,5,17 .*correct or remove the line"),
        ("cat/1.png,5,0,5,4", r"line 3: box 5,0,5,4"),
        ("cat/1.png,6,0,5,4", r"line 3: box 6,0,5,4"),
        ("cat/1.png,0,4,5,4", r"line 3: box 0,4,5,4"),
        ("cat/9.png,0,0,5,5", r"line 3: no image 'cat/9.png' in the folder of images; names look like cat/0.png"),
        ("cat/1.png,0,0,5", r"line 3: cat/1.png,0,0,5,; expected a name and four whole numbers"),
        ("cat/1.png,0,0,5.5,6", r"line 3: cat/1.png,0,0,5.5,6; expected a name and four whole numbers of pixels"),
        ('cat/1.png,0,0,5,"6', r"boxes.csv is no CSV file"),
    ],
)  # fmt: skip
def test_bad_rows_of_boxes_name_the_line_and_the_remedy(class_folders, tmp_path, row, message):
    table = boxes(tmp_path, "cat/0.png,0,0,20,16", row)
    with pytest.raises(DataError, match=message):
        prepared(tmp_path, class_folders, boxes=table)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image,x0,y0,width\n", r"boxes.csv: no column x1, y1; the first line must name image,x0,y0,x1,y1"),
        (b"", r"boxes.csv: no column image, x0, y0, x1, y1"),
        (b"image,x0,y0,x1,y1\n", r"boxes.csv has no boxes; add rows, or leave it out"),
        (b"image,x0,y0,x1,y1\ncat/\xff.png,0,0,1,1\n", r"boxes.csv is no CSV file in UTF-8 \(.*\); save it as one"),
    ],
)
def test_unusable_tables(class_folders, tmp_path, content, message):
    (tmp_path / "boxes.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepared(tmp_path, class_folders, boxes=tmp_path / "boxes.csv")


def test_boxes_of_an_unreadable_image_are_no_error(class_folders, tmp_path):
    (class_folders / "cat/0.png").write_bytes(b"junk")
    out = prepared(tmp_path, class_folders, boxes=boxes(tmp_path, "cat/0.png,0,0,5,5", "dog/0.png,0,0,5,5"))
    assert read_manifest(out)["objects"]["images"] == 1


def test_progress_sees_the_masks(class_folders, tmp_path):
    seen = []

    def progress(iterable, total, description):
        seen.append((total, description))
        return iterable

    config = data_config(class_folders, boxes=str(boxes(tmp_path, "cat/0.png,0,0,5,5")))
    prepare_folder(config, 1, tmp_path / "out", progress)
    assert seen == [(16, "checking images"), (16, "checking masks")]
