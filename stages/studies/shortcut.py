"""`aha study shortcut`: a target that has learnt a marker, explained by the network trained on the clean target.

Rows are means over held-out images of the marked class (`own`), of other classes (`other`) and of both (`all`), of maps
of the marked class (`predicted_alarms`: of the class that the control is given), after 0 .. T refinement steps. Two
comparisons stand beside the poisoned target: the clean target on the same marked images (a map that shows the marker
there shows what catches the eye, not what the classifier uses) and baselines that need one pass or two. The columns are
those of `aha_core.findings`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from aha_core.attribution import Explainer
from aha_core.class_names import class_index
from aha_core.errors import DataError
from aha_core.figures import marker_strip_figure, shortcut_figure, to_png
from aha_core.files import atomic_json
from aha_core.findings import CELLS, TOP, Findings, cell_rank, find_marker
from aha_core.perturbation import reference_images
from aha_core.selection import evaluation_indices
from aha_core.shortcut import Marker, Place, Poisoning
from aha_core.targets import Target
from stages.bench import facts, save_csv, save_figure
from stages.context import Context
from stages.studies.common import (
    Cache,
    HeldOutImages,
    around,
    baselines,
    cache,
    class_accuracy,
    clean_explainer,
    fine_tuned,
    logit_labels,
    maps_over_steps,
    recipe_of,
)

METHODS = ("chefer", "grad_cam")  # those of BASELINES that cost no more than a backward pass and are strong
STRIP_IMAGES, STRIP_STEPS = 4, (0, 1, 3, 5, 10)
RELABELLED = 0.1  # without any, classes that are easy to tell leave nothing to learn from a marker
MARKER_SHARE = 32  # of the image's side in a square of the marker: four of them, an eighth of the side


def run(
    ctx: Context, out: Path, class_name: str | None = None, steps: int = 10, images: int = 100,
    fine_tune_steps: int = 300, lr: float | None = None, marker_side: int | None = None, place: Place = "corner",
    relabelled: float = RELABELLED, methods: tuple[str, ...] = METHODS, show_images: bool = False,
) -> None:  # fmt: skip
    """Teach, look, write shortcut.csv, .json, .png and, where images may be shown, shortcut-strip.png."""
    ctx.use_all_cores()
    explainer = clean_explainer(ctx)
    clean, size = explainer.target, explainer.target.image_size
    marked = marked_class(ctx, clean, class_name)
    marker = default_marker(ctx, size, marker_side, place)
    marker.pattern(), marker.corners([0], size)  # what is impossible is an error before the fine-tuning
    _, left_out = baselines(ctx, clean, methods)
    recipe, poisoning = recipe_of(ctx, fine_tune_steps, lr, seed_offset=0), Poisoning(marked, relabelled)
    poisoned, _ = fine_tuned(ctx, clean, recipe, marker, poisoning)
    held_out = HeldOutImages.read(ctx, clean, chosen_images(logit_labels(ctx, clean, "test"), marked, images))
    settings: dict[str, object] = {
        "class": clean.class_names[marked], "steps": steps, "images": len(held_out.indices), "marker": asdict(marker),
        "fine_tuning": asdict(recipe), "relabelled": relabelled, "grid": CELLS, "top": TOP,
        "refinement": ctx.params.refine.model_dump(mode="json"),
    }  # fmt: skip
    store = cache(ctx, "shortcut", settings, [ctx.paths.explainer])
    rows: list[dict[str, object]] = []
    own, resamples = held_out.labels == marked, ctx.params.evaluate.bootstrap
    for name, target in (("poisoned", poisoned), ("clean", clean)):
        made = {"aha": maps_over_steps(around(explainer, target), steps)}
        made |= {method: one_step(one.attribute) for method, one in baselines(ctx, target, methods)[0].items()}
        for method, maps in made.items():
            found = findings(ctx, store, f"{name}-{method}", target, maps, held_out, marker, marked)
            for group, chosen in (("all", own | ~own), ("own", own), ("other", ~own)):
                if bool(chosen.any()):
                    head: dict[str, object] = {"target": name, "method": method, "group": group}
                    rows += [head | row for row in found.of(chosen).rows(resamples, ctx.params.seed)]
    table = pd.DataFrame(rows)
    batch, targets = ctx.params.resources.batch_size, {"clean": clean, "poisoned": poisoned}
    accuracy = {name: class_accuracy(one, held_out, batch, ctx.device) for name, one in targets.items()}
    checks: dict[str, object] = {"accuracy": accuracy, "left_out": left_out}
    save_csv(table, out / "shortcut.csv")
    save_figure(to_png(shortcut_figure(table[table.group == "all"])), out / "shortcut.png")
    atomic_json(out / "shortcut.json", facts(ctx) | settings | checks)
    if show_images or ctx.params.data.source == "synthetic":
        figure = strip(around(explainer, poisoned), held_out, marker, marked, steps, ctx)
        save_figure(to_png(figure), out / "shortcut-strip.png")
    ctx.console.print(summary(table))
    ctx.say(f"wrote shortcut.csv, .json and figures to {out}")


def default_marker(ctx: Context, size: int, side: int | None = None, place: Place = "corner") -> Marker:
    """The marker that the flags name, for images of `size` pixels."""
    return Marker(side or 4 * max(round(size / MARKER_SHARE), 1), place, ctx.params.seed)


def marked_class(ctx: Context, target: Target, name: str | None) -> int:
    """Logit index of the class, the data's first where no name is given.

    Raises AhaError for an unknown name, DataError for a class without training images.
    """
    present = logit_labels(ctx, target, "train").unique().tolist()
    marked = present[0] if name is None else class_index(name, target, "--class")
    if marked not in present:
        names = ", ".join(target.class_names[one] for one in present[:10])
        raise DataError(f"no training image has class {target.class_names[marked]!r}; --class takes one of {names}")
    return int(marked)


def chosen_images(labels: Tensor, marked: int, count: int) -> list[int]:
    """Places of `count` images: half of the marked class where it has as many, the others spread evenly.

    Raises DataError when the split has only one of the two kinds.
    """
    own, other = (torch.where(which)[0].tolist() for which in (labels == marked, labels != marked))
    if not own or not other:
        raise DataError("the test images need the marked class and others; choose another --class")
    first = [own[place] for place in evaluation_indices(max(count // 2, 1), len(own))]
    return first + [other[place] for place in evaluation_indices(max(count - len(first), 1), len(other))]


def one_step(attribute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, classes: attribute(x, classes)[None]


def findings(
    ctx: Context, store: Cache, name: str, target: Target, maps: Callable[[Tensor, Tensor], Tensor],
    images: HeldOutImages, marker: Marker, marked: int,
) -> Findings:  # fmt: skip
    """Of all images, in chunks that a second run finds again."""
    params, parts = ctx.params, []
    references = [
        lambda x, kind=kind: reference_images(x, kind, params.perturbation) for kind in params.refine.references
    ]
    with ctx.bar() as bar:
        task = bar.add_task(name[:12], total=len(images.indices))
        for start, part in images.chunks(params.resources.batch_size):

            def look(part: HeldOutImages = part) -> dict[str, Tensor]:
                x = part.x.to(ctx.device)
                return find_marker(target, maps, x, part.indices, marker, marked, CELLS, references).tensors()

            parts.append(Findings(**store.tensors(f"{name}-{start:05d}", look)))
            bar.advance(task, len(part.indices))
    return Findings.join(parts)


def strip(explainer: Explainer, images: HeldOutImages, marker: Marker, marked: int, steps: int, ctx: Context) -> Figure:
    """Marked images, one of the class and others, with maps at several T and the marker's rank below."""
    count = len(images.indices)
    places = sorted({0, *(count - 1 - place for place in range(min(STRIP_IMAGES - 1, count - 1)))})
    indices = [images.indices[place] for place in places]
    x = marker.stamp(images.x[places], indices).to(ctx.device)
    classes = torch.full((len(x),), marked, device=x.device)
    maps = maps_over_steps(explainer, steps)(x, classes).cpu()
    shown = [step for step in STRIP_STEPS if step <= steps]
    masks = marker.masks(indices, x.shape[3])
    ranks = torch.stack([cell_rank(maps[step], masks, CELLS) for step in shown], dim=1)
    with torch.no_grad():
        probabilities = explainer.target.probabilities(x)[:, marked].tolist()
    titles = [
        f"{explainer.target.class_names[int(images.labels[place])]}, p = {probability:.2f}"
        for place, probability in zip(places, probabilities, strict=True)
    ]
    return marker_strip_figure(
        [(image.permute(1, 2, 0) * 255).round().byte().numpy() for image in x.cpu()],
        [[maps[step, row, 0].numpy() for step in shown] for row in range(len(x))],
        shown, ranks.tolist(), titles, [mask[0].numpy() for mask in masks],
    )  # fmt: skip


def summary(table: pd.DataFrame) -> Table:
    """The poisoned target's rows of all images."""
    names = ("found", "false_alarms", "predicted_alarms", "auroc", "energy", "rank", "top_drop", "drop")
    shown = Table("method", "T", *(name.replace("_", " ") for name in names), box=None)
    for row in table[(table.group == "all") & (table.target == "poisoned")].to_dict("records"):
        shown.add_row(str(row["method"]), str(row["steps"]), *(f"{row[name]:.3f}" for name in names))
    return shown
