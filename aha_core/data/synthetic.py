"""Labelled images with exact object masks, drawn on the fly: evidence whose place is known.

Each class is one shape with one texture (`CLASSES`); either tells the class. Colour, size, place and rotation
carry no class information, and neither do the background or the distractors, which are drawn from their own set
of shapes and fills. Image i of a split depends only on (seed, split, i): a larger split begins with the same images.
Everything is drawn at three times the resolution and averaged down.
"""

from __future__ import annotations

import colorsys

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from aha_core.data.prepared import SPLITS
from aha_core.data.shapes import DISTRACTORS, OBJECTS, Shape
from aha_core.data.textures import TEXTURES, Texture

CLASSES: tuple[tuple[str, str], ...] = tuple(zip(OBJECTS, TEXTURES, strict=True))
CLASS_NAMES: list[str] = [shape for shape, _ in CLASSES]

_SUPERSAMPLING = 3
_AREA = (0.08, 0.25)  # object area, share of the image
_PERIOD = (0.11, 0.15)  # texture period, share of the side: 7.0 to 9.6 of 64 pixels
_CONTRAST = 0.4  # smallest luminance difference of the two texture colours

Colour = Float[np.ndarray, "3"]
Point = Float[np.ndarray, "2"]


def label_of(seed: int, split: str, index: int) -> int:
    """Class of an image: every block of eight successive images holds each class once, in its own order."""
    block, place = divmod(index, len(CLASSES))
    order = np.random.default_rng([seed, SPLITS.index(split), block, 1]).permutation(len(CLASSES))
    return int(order[place])


def draw(
    seed: int, split: str, index: int, size: int
) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"], int]:
    """Draw one image.

    Args:
        seed: seed of the data set.
        split: train, val or test.
        index: number of the image in its split.
        size: side H = W, pixels.

    Returns:
        image, mask of the object (coverage at least one half) and class index into `CLASS_NAMES`.
    """
    label = label_of(seed, split, index)
    rng = np.random.default_rng([seed, SPLITS.index(split), index, 0])
    canvas = _background(rng, size * _SUPERSAMPLING)
    for _ in range(int(rng.integers(0, 4))):
        _distractor(rng, canvas)
    cover = _object(rng, canvas, label)
    image = np.asarray(canvas.reduce(_SUPERSAMPLING), dtype=float)
    image = image + rng.normal(0.0, rng.uniform(2.0, 8.0), image.shape)
    mask = np.asarray(cover.reduce(_SUPERSAMPLING)) >= 128
    return image.round().clip(0, 255).astype(np.uint8), mask, label


def _colour(rng: np.random.Generator) -> Colour:
    """A colour of any hue, saturation and lightness, in [0, 255]."""
    red, green, blue = colorsys.hls_to_rgb(rng.random(), rng.uniform(0.12, 0.88), rng.uniform(0.2, 1.0))
    return 255.0 * np.array([red, green, blue])


def _luminance(colour: Colour) -> float:
    return float(colour @ (0.299, 0.587, 0.114)) / 255.0


def _colour_pair(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Two colours of clearly different luminance, in random order."""
    while True:
        first, second = _colour(rng), _colour(rng)
        if abs(_luminance(first) - _luminance(second)) >= _CONTRAST:
            return first, second


def _ink(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    """Smooth colour gradients under random lines and blobs."""
    knots = int(rng.integers(2, 6))
    base, spread = _colour(rng), rng.uniform(0.2, 0.8)
    field = np.array([[base + spread * (_colour(rng) - base) for _ in range(knots)] for _ in range(knots)])
    canvas = Image.fromarray(field.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(1, 7))):
        ends = rng.uniform(-0.1, 1.1, 4) * side
        pen.line(ends.tolist(), fill=_ink(_colour(rng)), width=int(rng.uniform(0.008, 0.03) * side) + 1)
    for _ in range(int(rng.integers(1, 7))):
        (x, y), (a, b) = rng.random(2) * side, rng.uniform(0.015, 0.06, 2) * side
        pen.ellipse((x - a, y - b, x + a, y + b), fill=_ink(_colour(rng)))
    return canvas


def _place(rng: np.random.Generator, shape: Shape, share: float, side: int) -> tuple[Shape, Point]:
    """Scale a unit shape to a share of the image's area, rotate it, put it anywhere inside; also its centre."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rings = [ring @ turn.T * (share**0.5 * side) for ring in shape]
    extent = float(np.ptp(rings[0], axis=0).max())
    shrink = min(1.0, 0.92 * side / extent)
    rings = [ring * shrink for ring in rings]
    low, high = rings[0].min(axis=0), rings[0].max(axis=0)
    centre = rng.uniform(-low, side - high)
    return [ring + centre for ring in rings], centre


def _cover(shape: Shape, side: int) -> Image.Image:
    """The shape as a mask image, 0 or 255."""
    cover = Image.new("L", (side, side))
    pen = ImageDraw.Draw(cover)
    for ring, fill in zip(shape, [255] + [0] * (len(shape) - 1), strict=True):
        pen.polygon([(float(x), float(y)) for x, y in ring], fill=fill)
    return cover


def _paint(canvas: Image.Image, cover: Image.Image, mix: np.ndarray, low: Colour, high: Colour) -> None:
    """Paste low + mix * (high - low), given inside the mask's bounding box, where the mask is set."""
    box = cover.getbbox()
    if box:
        fill = (low + mix[..., None] * (high - low)).astype(np.uint8)
        canvas.paste(Image.fromarray(fill), box[:2], cover.crop(box))


def _coordinates(cover: Image.Image, centre: Point, unit: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotated coordinates around a centre inside the mask's bounding box, in multiples of a unit."""
    left, top, right, bottom = cover.getbbox() or (0, 0, 0, 0)
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    x, y = (x - centre[0]) / unit, (y - centre[1]) / unit
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _distractor(rng: np.random.Generator, canvas: Image.Image) -> None:
    """A shape without class information, filled with a plain colour, a gradient or speckle."""
    side = canvas.width
    name = list(DISTRACTORS)[int(rng.integers(len(DISTRACTORS)))]
    shape, centre = _place(rng, DISTRACTORS[name](), rng.uniform(0.02, 0.08), side)
    cover = _cover(shape, side)
    u, _ = _coordinates(cover, centre, 0.4 * side, rng.uniform(0, 2 * np.pi))
    grain = rng.integers(0, 2, (u.shape[0] // 6 + 1, u.shape[1] // 6 + 1)).repeat(6, 0).repeat(6, 1)
    fills = (np.zeros_like(u), (u + 0.5).clip(0, 1), grain[: u.shape[0], : u.shape[1]].astype(np.float32))
    _paint(canvas, cover, fills[int(rng.integers(3))], *_colour_pair(rng))


def _object(rng: np.random.Generator, canvas: Image.Image, label: int) -> Image.Image:
    """Paint the labelled object on top; returns its mask at the canvas resolution."""
    side = canvas.width
    shape_name, texture_name = CLASSES[label]
    shape, centre = _place(rng, OBJECTS[shape_name](), rng.uniform(*_AREA), side)
    cover = _cover(shape, side)
    texture: Texture = TEXTURES[texture_name]
    mix = texture(*_coordinates(cover, centre, rng.uniform(*_PERIOD) * side, rng.uniform(0, 2 * np.pi)))
    _paint(canvas, cover, mix, *_colour_pair(rng))
    return cover
