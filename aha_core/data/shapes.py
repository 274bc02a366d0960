"""Outlines of the synthetic objects and of the distractors: polygons of unit area around the origin.

A shape is a list of rings, each Float[V 2] of (x, y) vertices: the outer ring first, then holes. The object
shapes carry the class; the distractor shapes are a disjoint set.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Ring = Float[np.ndarray, "V 2"]
Shape = list[Ring]


def area(shape: Shape) -> float:
    """Area of the outer ring less the holes (shoelace formula)."""
    return _ring_area(shape[0]) - sum(_ring_area(hole) for hole in shape[1:])


def _ring_area(ring: Ring) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _unit(*rings: Ring) -> Shape:
    """Centre the outer ring's bounding box on the origin and scale the shape to area 1."""
    centre = (rings[0].max(axis=0) + rings[0].min(axis=0)) / 2
    scale = area(list(rings)) ** -0.5
    return [(ring - centre) * scale for ring in rings]


def _arc(start: float, stop: float, radius: float = 1.0, vertices: int = 48) -> Ring:
    angle = np.radians(np.linspace(start, stop, vertices))
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _regular(corners: int) -> Ring:
    return _arc(0, 360, vertices=corners + 1)[:-1]


def _points(*pairs: tuple[float, float]) -> Ring:
    return np.array(pairs, dtype=float)


def _cross(arm: float = 0.36) -> Ring:
    quarter = _points((1, -arm), (1, arm), (arm, arm))
    turns = (np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in np.pi / 2 * np.arange(4))
    return np.concatenate([quarter @ turn.T for turn in turns])


def _crescent() -> Ring:
    """A disc less a disc of the same radius shifted by 0.8: the arcs meet at x = 0.4, where cos(angle) = 0.4."""
    tip = float(np.degrees(np.arccos(0.4)))
    outer = _arc(tip, 360 - tip)
    inner = _arc(180 + tip, 180 - tip) + np.array([0.8, 0.0])
    return np.concatenate([outer, inner[1:-1]])


def _heart() -> Ring:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _arrow() -> Ring:
    return _points((-1, -0.3), (0.05, -0.3), (0.05, -0.85), (1, 0), (0.05, 0.85), (0.05, 0.3), (-1, 0.3))


OBJECTS: dict[str, Callable[[], Shape]] = {
    "disc": lambda: _unit(_arc(0, 360)[:-1]),
    "square": lambda: _unit(_regular(4)),
    "cross": lambda: _unit(_cross()),
    "ring": lambda: _unit(_arc(0, 360)[:-1], _arc(0, 360, radius=0.5)[:-1]),
    "hexagon": lambda: _unit(_regular(6)),
    "crescent": lambda: _unit(_crescent()),
    "arrow": lambda: _unit(_arrow()),
    "heart": lambda: _unit(_heart()),
}

DISTRACTORS: dict[str, Callable[[], Shape]] = {
    "ellipse": lambda: _unit(_arc(0, 360)[:-1] * (1.0, 0.5)),
    "bar": lambda: _unit(_points((-1, -0.16), (1, -0.16), (1, 0.16), (-1, 0.16))),
    "half disc": lambda: _unit(_arc(0, 180)),
    "corner": lambda: _unit(_points((0, 0), (1, 0), (1, 0.35), (0.35, 0.35), (0.35, 1), (0, 1))),
    "bolt": lambda: _unit(_points((0.2, -1), (-0.6, 0.2), (-0.05, 0.2), (-0.3, 1), (0.6, -0.25), (0.05, -0.25))),
    "trapezoid": lambda: _unit(_points((-0.5, -0.5), (0.5, -0.5), (1, 0.5), (-1, 0.5))),
}
