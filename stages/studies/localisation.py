"""`aha study localisation`: do maps lie on the objects, in a folder of images with masks or boxes?

    for each image:  the predicted class's map, and every localisation measure (`metrics.localisation`) with its mask

on all images and on those whose object is away from the centre. Photographs have objects in their middle, so the
centred Gaussian and the object's area stand beside every method. Images without an object are left out. No stage of
the pipeline is needed: any explainer and target do (`stages.own`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from aha_core.attribution import Explainer
from aha_core.data.decode import read_image
from aha_core.data.objects import INSIDE, VOID, Objects
from aha_core.errors import DataError
from aha_core.figures import localisation_figure, method_label, to_png
from aha_core.files import atomic_json
from aha_core.measures import Ranked, Scene, localisation
from aha_core.metrics import paired_difference, removal_order
from aha_core.protocols import Attributor
from aha_core.selection import evaluation_indices
from aha_core.summary import LOCALISATION, OURS, summarise_columns
from stages.bench import save_csv, save_figure
from stages.context import Context
from stages.explain import batch_size
from stages.image_files import find_images
from stages.studies.common import baselines, maps_over_steps


@dataclass(frozen=True)
class Photos:
    """x: in [0, 1] at the target's input size; masks: of the objects; void: pixels that do not count."""

    x: Float[Tensor, "B 3 S S"]
    masks: Bool[Tensor, "B 1 S S"]
    void: Bool[Tensor, "B 1 S S"]


def run(
    ctx: Context, out: Path, folder: Path, objects: Objects, explainer: Explainer, images: int | None, steps: int,
    methods: tuple[str, ...],
) -> None:  # fmt: skip
    """Localise, write localisation.csv, .json and .png.

    Args:
        folder: of images, also in folders below it.
        objects: their masks or boxes, by the image's path below the folder.
        images: at most so many, evenly spread; all where None.
        steps: refinement steps T; all maps from one pass to T steps are measured.

    Raises DataError where no image has an object. Images that cannot be read are listed and left out.
    """
    ctx.use_all_cores()
    applicable, left_out = baselines(ctx, explainer.target, methods)
    files = find_images([str(folder)], [], out).files
    if not files:
        raise DataError(f"no images below {folder}")
    objects.check([file.relative_to(folder).as_posix() for file in files])
    chosen = [files[place] for place in evaluation_indices(images or len(files), len(files))]
    rows: list[dict[str, object]] = []
    seen = 0
    bad: list[tuple[str, str]] = []
    every = photographs(ctx, explainer, folder, chosen, objects, bad)
    for photos in ctx.progress(every, -(-len(chosen) // batch_size(ctx)), "images"):
        for name, columns in measured(ctx, explainer, applicable, photos, seen, steps).items():
            values = {key: column.double().tolist() for key, column in columns.items()}
            rows += [
                {"method": name, "index": seen + place} | {key: value[place] for key, value in values.items()}
                for place in range(len(photos.x))
            ]
        seen += len(photos.x)
    if not seen:
        raise DataError(f"no readable image below {folder} has an object inside it; correct the masks or boxes")
    for name, reason in bad:
        ctx.say_skipped(name, reason)
    table = summary(ctx, pd.DataFrame(rows))
    save_csv(table, out / "localisation.csv")
    save_figure(to_png(localisation_figure(table[table.images_of == "all"])), out / "localisation.png")
    target = {"target": explainer.target.name, "image_size": explainer.target.image_size}
    settings = target | {"images": seen, "steps": steps, "seed": ctx.params.seed}
    refinement = explainer.refinement.model_dump(mode="json")
    atomic_json(out / "localisation.json", settings | {"refinement": refinement, "left_out": left_out})
    ctx.console.print(shown(table))
    ctx.say(f"wrote localisation.csv, .json and .png to {out}")


def photographs(
    ctx: Context, explainer: Explainer, folder: Path, files: list[Path], objects: Objects,
    bad: list[tuple[str, str]],
) -> Iterator[Photos]:  # fmt: skip
    """Images with an object, in batches as large as fits; image and mask have the same geometry.

    Args:
        bad: takes the images that cannot be read, with the reason.
    """
    side = [explainer.target.image_size] * 2
    batch = batch_size(ctx)
    for start in range(0, len(files), batch):
        pixels, places = [], []
        for file in files[start : start + batch]:
            try:
                image = read_image(file)
            except DataError as error:
                bad.append((str(file), str(error).removeprefix(f"{file}: ")))
                continue
            values = objects.read(file.relative_to(folder).as_posix(), image.size)
            if values is None:
                continue
            nearest = InterpolationMode.NEAREST_EXACT
            small = transforms.resize(torch.from_numpy(values)[None], side, interpolation=nearest)
            if bool((small == INSIDE).any()):
                pixels.append(transforms.resize(transforms.pil_to_tensor(image), side, antialias=True))
                places.append(small)
        if pixels:
            marks = torch.stack(places).to(ctx.device)
            yield Photos(torch.stack(pixels).to(ctx.device).float() / 255, marks == INSIDE, marks == VOID)


def measured(
    ctx: Context, explainer: Explainer, methods: dict[str, Attributor], photos: Photos, first: int, steps: int
) -> dict[str, dict[str, Tensor]]:
    """Method to every measure of each image."""
    target, x = explainer.target, photos.x
    with torch.no_grad():
        classes = target(x).argmax(dim=1)
    seeds = [ctx.params.seed * 1_000_003 + first + place for place in range(len(x))]
    void = photos.void if bool(photos.void.any()) else None
    scene = Scene(target.probabilities, x, classes, classes, seeds, photos.masks, ctx.params.resources.batch_size, void)
    every = {f"{OURS}{step}": maps for step, maps in enumerate(maps_over_steps(explainer, steps)(x, classes))}
    every |= {name: method.attribute(x, classes) for name, method in methods.items()}
    return {
        name: localisation(scene, Ranked(maps, removal_order(maps, seeds, name)), list(range(len(x))))
        for name, maps in every.items()
    }


def summary(ctx: Context, rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each method and group of images: means with 95 % intervals, and AHA's energy minus the method's."""
    resamples, seed = ctx.params.evaluate.bootstrap, ctx.params.seed
    found = []
    for group, own in (("all", rows), ("off-centre", rows[rows.off_centre == 1])):
        ours = own[own.method == f"{OURS}0"].set_index("index").energy
        for method, values in summarise_columns(own, LOCALISATION, resamples, seed).items() if len(own) else ():
            row: dict[str, object] = {"images_of": group, "method": method, "images": len(ours)}
            row |= dict.fromkeys(("difference", "difference_low", "difference_high"), np.nan)
            for name, interval in values.items():
                row |= {name: interval["mean"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
            theirs = own[own.method == method].set_index("index").energy
            if method != f"{OURS}0":
                gap = paired_difference(ours.to_numpy(), theirs[ours.index].to_numpy(), resamples, seed)
                row |= {"difference": gap.mean, "difference_low": gap.low, "difference_high": gap.high}
            found.append(row)
    return pd.DataFrame(found)


def shown(table: pd.DataFrame) -> Table:
    """Energy and pointing game of all images, the most energy first."""
    made = Table("method", "energy [95 %]", "AHA − method [95 %]", "pointing", "AP", box=None)
    for row in table[table.images_of == "all"].sort_values("energy", ascending=False).itertuples():
        bounds = (row.difference, row.difference_low, row.difference_high)
        gap = "" if np.isnan(row.difference) else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*bounds)
        energy = f"{row.energy:.2f} [{row.energy_low:.2f}, {row.energy_high:.2f}]"
        made.add_row(
            method_label(row.method), escape(energy), escape(gap), f"{row.pointing:.0%}", f"{row.average_precision:.2f}"
        )
    return made
