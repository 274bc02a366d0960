"""The images of the report's slider: picture, rank levels, references and measured curves."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from aha_core.config import ReferenceName
from aha_core.metrics import removal_order
from aha_core.perturbation import reference_images
from aha_core.report import Explorer, ExplorerImage, ExplorerMap
from aha_core.summary import headline
from stages.reporting.results import Results, in_unit_range, pixels_of

IMAGES = 6
DIGITS = 3


def explorer(results: Results) -> Explorer | None:
    """The first images of the gallery, ranked by AHA in one pass, refined, and by the best baseline.

    References are the first and the last of the evaluation that the seed does not change. An image on which one of the
    methods failed is left out; None where nothing is left.
    """
    methods = list(dict.fromkeys([*headline(results.scores), *filter(None, [results.best_baseline])]))
    drawn = [name for name in results.references if name != "noise"]
    names = list(dict.fromkeys([*drawn[:1], *drawn[-1:]]))
    images = []
    for place, index in enumerate(results.places[:IMAGES]):
        curves = {m: {name: results.curve_of(m, name, index) for name in names} for m in methods}
        found = {m: {n: c for n, c in own.items() if c is not None} for m, own in curves.items()}
        maps = {m: one for m in methods if (one := results.gallery[m][place]) is not None}
        if not names or len(maps) < len(methods) or any(len(own) < len(names) for own in found.values()):
            continue
        x = in_unit_range(results.images[place])
        images.append(
            ExplorerImage(
                title=f"{place + 1}: {results.titles[place]}",
                image=png(results.images[place]),
                references={n: png(pixels_of(reference_images(x, n, results.perturbation)[0])) for n in names},
                maps=tuple(ExplorerMap(m, png(rank_levels(one, index)), rounded(found[m])) for m, one in maps.items()),
            )
        )
    fractions = next(iter(results.curves[results.references[0]].values()))[0]
    return Explorer(tuple(round(float(f), DIGITS) for f in fractions), tuple(images)) if images else None


def rank_levels(scores: Float[np.ndarray, "H W"], seed: int) -> UInt8[np.ndarray, "H W"]:
    """floor(256 r / HW) for the pixel at place r of the removal order."""
    order = removal_order(torch.from_numpy(scores)[None, None], [seed])[0].numpy()
    levels = np.empty(order.size, np.uint8)
    levels[order] = np.arange(order.size) * 256 // order.size
    return levels.reshape(scores.shape)


def rounded(
    curves: Mapping[ReferenceName, tuple[np.ndarray, np.ndarray]],
) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    def plain(values: np.ndarray) -> tuple[float, ...]:
        return tuple(round(float(value), DIGITS) for value in values)

    return {name: (plain(deletion), plain(insertion)) for name, (deletion, insertion) in curves.items()}


def png(image: UInt8[np.ndarray, "H W"] | UInt8[np.ndarray, "H W 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
