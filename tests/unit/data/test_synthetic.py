"""Drawn images: reproducible, balanced, with masks that are where the object is, without accidental clues."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageDraw

from aha_core.data import synthetic
from aha_core.data.shapes import DISTRACTORS, OBJECTS, area
from aha_core.data.synthetic import CLASS_NAMES, CLASSES, draw, label_of


@pytest.fixture(scope="module")
def images():
    return [draw(7, "train", index, 64) for index in range(200)]


def test_an_image_depends_on_seed_split_and_index_only():
    first, again = draw(1, "train", 3, 64), draw(1, "train", 3, 64)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    for other in (draw(2, "train", 3, 64), draw(1, "test", 3, 64), draw(1, "train", 4, 64)):
        assert (other[0] != first[0]).any()


def test_shapes_and_types():
    image, mask, label = draw(0, "val", 0, 48)
    assert image.shape == (48, 48, 3)
    assert image.dtype == np.uint8
    assert mask.shape == (48, 48)
    assert mask.dtype == bool
    assert label in range(8)


def test_every_block_of_eight_holds_each_class_once():
    for split in ("train", "val", "test"):
        for block in range(3):
            assert sorted(label_of(5, split, 8 * block + place) for place in range(8)) == list(range(8))
    assert [label_of(5, "train", i) for i in range(8)] != [label_of(5, "train", i) for i in range(8, 16)]


def test_classes_have_their_own_shape_and_texture():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 8
    assert len({texture for _, texture in CLASSES}) == 8
    assert not set(OBJECTS) & set(DISTRACTORS)


@pytest.mark.parametrize("name", [*OBJECTS, *DISTRACTORS])
def test_outlines_have_unit_area_and_are_centred(name):
    shape = (OBJECTS | DISTRACTORS)[name]()
    assert area(shape) == pytest.approx(1.0)
    np.testing.assert_allclose(shape[0].max(axis=0) + shape[0].min(axis=0), 0, atol=1e-12)


def test_area_of_a_square_with_a_square_hole():
    square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    assert area([square, square / 2]) == pytest.approx(3.0)


def test_masks_cover_the_promised_share_and_appear_everywhere(images):
    shares = np.array([mask.mean() for _, mask, _ in images])
    assert shares.min() > 0.07
    assert shares.max() < 0.26
    rows, columns = (np.array([np.argwhere(mask).mean(axis=0)[axis] for _, mask, _ in images]) for axis in (0, 1))
    for centres in (rows, columns):
        assert centres.min() < 20
        assert centres.max() > 44


def test_mask_is_exactly_what_the_object_painted(monkeypatch):
    """The same image without its object differs inside the mask and at its one-pixel edge only."""
    with_object, mask, _ = draw(3, "test", 5, 64)
    real = synthetic._object
    covers = []

    def unpainted(rng, canvas, label):
        covers.append(real(rng, canvas.copy(), label))
        return covers[-1]

    monkeypatch.setattr(synthetic, "_object", unpainted)
    without, same_mask, _ = draw(3, "test", 5, 64)
    np.testing.assert_array_equal(mask, same_mask)
    coverage = np.asarray(covers[0].reduce(3))
    changed = (with_object != without).any(axis=2)
    assert not changed[coverage == 0].any()
    assert changed[mask].mean() > 0.97


def test_colour_tells_nothing_about_the_class(images):
    """Mean object colours per class scatter no more than chance allows (standard error of 20 images)."""
    colours = np.array([image[mask].mean(axis=0) for image, mask, _ in images])
    labels = np.array([label for _, _, label in images])
    means = np.array([colours[labels == label].mean(axis=0) for label in range(8)])
    z = (means - colours.mean(axis=0)) / (colours.std(axis=0) / np.sqrt(20))
    assert np.abs(z).max() < 4


def test_background_and_distractors_do_not_depend_on_the_class(monkeypatch):
    """With the label changed, everything outside both objects stays the same."""
    label = label_of(9, "train", 2)
    monkeypatch.setattr(synthetic, "label_of", lambda *_: (label + 1) % 8)
    monkeypatch.setattr(synthetic, "_object", lambda rng, canvas, label: _blank(canvas))
    other, _, changed = draw(9, "train", 2, 64)
    assert changed == (label + 1) % 8
    monkeypatch.setattr(synthetic, "label_of", lambda *_: label)
    same, _, _ = draw(9, "train", 2, 64)
    np.testing.assert_array_equal(other, same)


def _blank(canvas):
    cover = canvas.convert("L").point(lambda _: 0)
    ImageDraw.Draw(cover).point((0, 0), fill=255)
    return cover
