"""Two-colour textures of the synthetic objects: t(u, v) in [0, 1], the share of the second colour.

u and v are object coordinates in units of one texture period, rotated with the object's own texture angle.
Each pattern covers a quarter to two thirds of the area, so that no patch of an object is free of evidence.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Field = Float[np.ndarray, "H W"]
Texture = Callable[[Field, Field], Field]


def _half(wave: Field) -> Field:
    """1 in the first half of each period, else 0."""
    return (np.mod(wave, 1.0) < 0.5).astype(np.float32)


def _cell(wave: Field) -> Field:
    """Distance to the cell's centre, in [0, .5]."""
    return np.abs(np.mod(wave, 1.0) - 0.5)


TEXTURES: dict[str, Texture] = {
    "stripes": lambda u, v: _half(u),
    "checker": lambda u, v: np.abs(_half(u / 1.4) - _half(v / 1.4)),
    "dots": lambda u, v: (np.hypot(_cell(u / 1.15), _cell(v / 1.15)) < 0.33).astype(np.float32),
    "chevrons": lambda u, v: _half(u + 2.0 * _cell(v / 2.0)),
    "sectors": lambda u, v: _half(np.arctan2(v, u) * (8 / (2 * np.pi))),
    "bricks": lambda u, v: (
        (_cell(v * 0.9) > 0.36) | (_cell(u * 0.5 + 0.5 * np.floor(np.mod(v * 0.9, 2.0))) > 0.41)
    ).astype(np.float32),
    "waves": lambda u, v: _half(u + 0.45 * np.sin(2.0 * v)),
    "patches": lambda u, v: (np.sin(3.1 * u) + np.sin(2.3 * v) + np.sin(1.7 * (u + v)) > 0).astype(np.float32),
}
