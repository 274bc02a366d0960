"""Pictures of maps: gallery of methods, strip of refinement steps, soft masks, and the wide picture of the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aha_core.figures.overlay import overlay
from aha_core.figures.style import AHA_COLOUR, INK, MUTED, is_aha, method_label, new_figure, picture

Images = Sequence[UInt8[np.ndarray, "H W 3"]]
Map = Float[np.ndarray, "H W"]
Maps = Sequence[Map | None]  # None where a method has no map of an image
_CELL = 1.25  # inches


def gallery_figure(images: Images, maps: Mapping[str, Maps], titles: Sequence[str]) -> Figure:
    """One row per image: the image with its title, then the map of every method.

    Args:
        images: RGB.
        maps: method to one map per image, None where it has none.
        titles: one per image, for instance the explained class.
    """
    figure = new_figure(_CELL * (1 + len(maps)) + 0.1, (_CELL + 0.16) * len(images) + 0.3)
    grid = figure.subplots(len(images), 1 + len(maps), squeeze=False)
    for row, image in enumerate(images):
        picture(grid[row, 0], image).set_xlabel(titles[row], fontsize=7.5, color=INK, labelpad=2, parse_math=False)
        for column, of_method in enumerate(maps.values(), start=1):
            _map(grid[row, column], image, of_method[row])
    grid[0, 0].set_title("image", fontsize=8.5, color=MUTED)
    for column, method in enumerate(maps, start=1):
        _head(grid[0, column], method, size=8.5)
    _tight(figure)
    return figure


def strip_figure(
    images: Images, maps_by_step: Sequence[Maps], scores: Float[np.ndarray, "n T"] | Sequence[Sequence[float | None]]
) -> Figure:
    """One row per image: the image, then its map after 0 to T refinement steps with its SRG below.

    Args:
        images: n RGB images.
        maps_by_step: n sequences of T + 1 maps.
        scores: SRG of each of these maps, None where it has none.
    """
    columns = 1 + len(maps_by_step[0])
    figure = new_figure(_CELL * columns + 0.1, (_CELL + 0.2) * len(images) + 0.3)
    grid = figure.subplots(len(images), columns, squeeze=False)
    for row, image in enumerate(images):
        picture(grid[row, 0], image)
        for column, scores_map in enumerate(maps_by_step[row], start=1):
            score = scores[row][column - 1]
            axes = _map(grid[row, column], image, None if score is None else scores_map)
            axes.set_xlabel("" if score is None else f"SRG {score:+.2f}", fontsize=7.5, color=INK, labelpad=2)
    grid[0, 0].set_title("image", fontsize=8.5, color=MUTED)
    for column in range(1, columns):
        grid[0, column].set_title(f"T = {column - 1}", fontsize=8.5, color=AHA_COLOUR, fontweight="bold")
    _tight(figure)
    return figure


def soft_masks_figure(
    overlay_image: UInt8[np.ndarray, "H W 3"], fractions: Sequence[float],
    rows: Mapping[int, Sequence[tuple[Float[np.ndarray, "H W"], UInt8[np.ndarray, "H W 3"]]]],
) -> Figure:  # fmt: skip
    """One row per grid: for each fraction the soft deletion mask, white = removed, and what is left of the image.

    Args:
        overlay_image: the image under its map, shown at the head of each row.
        fractions: removed, in the order of the columns.
        rows: cells a side to (mask, masked image) of each fraction.
    """
    columns = 1 + 2 * len(fractions)
    figure = new_figure(_CELL * columns + 0.1, (_CELL + 0.24) * len(rows) + 0.3)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, (cells, pairs) in enumerate(rows.items()):
        picture(grid[row, 0], overlay_image).set_xlabel(f"{cells} × {cells} cells", fontsize=8, color=INK, labelpad=2)
        for place, (mask, left) in enumerate(pairs):
            shown = np.repeat((mask[..., None] * 255).round().astype(np.uint8), 3, axis=2)
            picture(grid[row, 1 + 2 * place], shown)
            picture(grid[row, 2 + 2 * place], left)
    grid[0, 0].set_title("map", fontsize=8.5, color=MUTED)
    for place, fraction in enumerate(fractions):
        grid[0, 1 + 2 * place].set_title(f"mask, {fraction:.0%}", fontsize=8.5, color=AHA_COLOUR, fontweight="bold")
        grid[0, 2 + 2 * place].set_title("left", fontsize=8.5, color=MUTED)
    _tight(figure)
    return figure


def hero_figure(images: Images, maps: Mapping[str, Maps], names: Sequence[str], srg: Mapping[str, float]) -> Figure:
    """The README's wide picture: a row of images above a row of maps per method, labelled with the mean SRG.

    Args:
        images: about eight RGB images.
        maps: method to one map per image, None where it has none; a few methods, AHA among them.
        names: one per image.
        srg: mean SRG by method.

    Returns:
        10 inches wide: 1600 pixels at 160 dots per inch.
    """
    label_share, width = 0.13, 10.0
    cell = width * (1 - label_share) / len(images)
    figure = new_figure(width, cell * (1 + len(maps)) * 1.04 + 0.3)
    grid = figure.subplots(
        1 + len(maps), 1 + len(images), squeeze=False, width_ratios=[label_share * width, *[cell] * len(images)]
    )
    for column, (image, name) in enumerate(zip(images, names, strict=True), start=1):
        picture(grid[0, column], image).set_title(name, fontsize=8.5, color=INK, pad=4, parse_math=False)
        for row, of_method in enumerate(maps.values(), start=1):
            _map(grid[row, column], image, of_method[column - 1])
    for row in range(1 + len(maps)):
        grid[row, 0].set_axis_off()
    for row, method in enumerate(maps, start=1):
        ours = is_aha(method)
        head = method_label(method).replace(" (", "\n(")
        style = {"ha": "right", "va": "center", "transform": grid[row, 0].transAxes}
        colour, weight = (AHA_COLOUR, "bold") if ours else (INK, "normal")
        grid[row, 0].text(0.97, 0.6, head, fontsize=9.5, color=colour, fontweight=weight, **style)
        lift = 0.24 if "\n" in head else 0.36
        grid[row, 0].text(0.97, lift, f"SRG {srg[method]:+.2f}", fontsize=8.5, color=colour if ours else MUTED, **style)
    _tight(figure)
    return figure


def _map(axes: Axes, image: UInt8[np.ndarray, "H W 3"], scores: Map | None) -> Axes:
    """The image under a map; an empty picture that says so where the method has none."""
    if scores is not None:
        return picture(axes, overlay(image, scores))
    axes.text(0.5, 0.5, "not scored", fontsize=7.5, color=MUTED, ha="center", va="center", transform=axes.transAxes)
    return picture(axes, np.full_like(image, 255))


def _head(axes: object, method: str, size: float) -> None:
    ours = is_aha(method)
    label = method_label(method).replace("Integrated Gradients", "Integrated\nGradients").replace(" (", "\n(")
    label = label.replace("Attention rollout", "Attention\nrollout")
    axes.set_title(  # type: ignore[attr-defined]
        label, fontsize=size, color=AHA_COLOUR if ours else INK, fontweight="bold" if ours else "normal"
    )


def _tight(figure: Figure) -> None:
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=0.02, h_pad=0.05, wspace=0.0, hspace=0.0)  # type: ignore[call-arg]
