"""`aha study transfer`: an explainer used with another target than the one that it was trained on.

    SRG(T) on held-out images, each target's own predicted class, after 0 .. T refinement steps with that target

Targets: `original`, the one of the training; `further`, its weights fine-tuned some more with another seed; `poisoned`,
fine-tuned with the marker of `aha study shortcut` (the same cached weights where its flags are the defaults), on images
without and with marker; and any saved target with the same classes. A target of another architecture can be explained
by an explainer that does not read the target (`explainer.kind: dpt`). Differences are paired over images: the given
explainer minus one trained on that target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
from rich.table import Table
from torch import Tensor

from aha_core.attribution import Explainer
from aha_core.benchmarks.training import SCORED_POINTS, HeldOut
from aha_core.errors import ConfigError, TargetError
from aha_core.explainer.storage import load_explainer
from aha_core.figures import to_png, transfer_figure
from aha_core.files import atomic_json
from aha_core.metrics import bootstrap_ci, paired_difference
from aha_core.selection import evaluation_indices
from aha_core.shortcut import Poisoning
from aha_core.targets import Target
from stages.bench import facts, save_csv, save_figure
from stages.context import Context
from stages.studies.common import (
    Cache,
    HeldOutImages,
    baselines,
    cache,
    class_accuracy,
    clean_explainer,
    fine_tuned,
    logit_labels,
    maps_over_steps,
    recipe_of,
)
from stages.studies.shortcut import METHODS, RELABELLED, default_marker, marked_class, one_step

ORIGINAL, FURTHER, POISONED, MARKED = "original", "further", "poisoned", "poisoned, marked images"


def run(
    ctx: Context, out: Path, steps: int = 5, images: int = 100, fine_tune_steps: int = 300, lr: float | None = None,
    explainer_folder: Path | None = None, others: dict[str, Path] | None = None, fresh: dict[str, Path] | None = None,
    methods: tuple[str, ...] = METHODS,
) -> None:  # fmt: skip
    """Fine-tune what is missing, score, write transfer.csv, .json and .png.

    Args:
        explainer_folder: the explainer that is transferred; the pipeline's where None.
        others: saved targets by name; fresh: explainers trained on a target, by the target's name.
    """
    ctx.use_all_cores()
    others, fresh = others or {}, fresh or {}
    given = explainer_folder or ctx.paths.explainer
    explainer = clean_explainer(ctx, given)
    targets = {ORIGINAL: explainer.target}
    targets |= {name: other_target(ctx, explainer.target, folder) for name, folder in others.items()}
    check_fit(ctx, given, targets, fresh, methods)
    recipe = recipe_of(ctx, fine_tune_steps, lr, seed_offset=1)
    folders = {}
    targets[FURTHER], folders[FURTHER] = fine_tuned(ctx, explainer.target, recipe)
    marker, marked = default_marker(ctx, explainer.target.image_size), marked_class(ctx, explainer.target, None)
    poison = recipe_of(ctx, fine_tune_steps, lr, seed_offset=0)
    targets[POISONED], folders[POISONED] = fine_tuned(
        ctx, explainer.target, poison, marker, Poisoning(marked, RELABELLED)
    )

    total = len(logit_labels(ctx, explainer.target, "test"))
    held_out = HeldOutImages.read(ctx, explainer.target, evaluation_indices(images, total))
    marked_too = replace(held_out, x=marker.stamp(held_out.x, held_out.indices))
    settings: dict[str, object] = {
        "steps": steps, "images": len(held_out.indices), "points": SCORED_POINTS, "further": asdict(recipe),
        "poisoned": asdict(poison) | {"class": explainer.target.class_names[marked], "marker": asdict(marker)},
        "refinement": ctx.params.refine.model_dump(mode="json"), "trained_for": explainer.training.target,
        "others": list(others), "fresh": list(fresh),
    }  # fmt: skip
    store = cache(ctx, "transfer", settings, [given, *fresh.values(), *others.values()])
    rows: list[dict[str, object]] = []
    for name, target, seen in (*((name, one, held_out) for name, one in targets.items()),
                               (MARKED, targets[POISONED], marked_too)):  # fmt: skip
        key = name.replace(", ", "-").replace(" ", "-")
        trained = fresh.get(POISONED if name == MARKED else name)
        made = {"aha": maps_over_steps(with_target(given, target, ctx), steps)}
        if trained is not None:
            made["fresh"] = maps_over_steps(with_target(trained, target, ctx), steps)
        made |= {method: one_step(one.attribute) for method, one in baselines(ctx, target, methods)[0].items()}
        gains = {method: srg(ctx, store, f"{key}-{method}", target, maps, seen) for method, maps in made.items()}
        rows += [{"target": name} | row for row in compared(gains, ctx)]
    table = pd.DataFrame(rows)
    batch = ctx.params.resources.batch_size
    checks: dict[str, object] = {
        "accuracy": {name: class_accuracy(one, held_out, batch, ctx.device) for name, one in targets.items()},
        "models": {name: one.name for name, one in targets.items()},
        "weights": {name: str(folder.relative_to(ctx.paths.state.parent)) for name, folder in folders.items()},
    }
    save_csv(table, out / "transfer.csv")
    save_figure(to_png(transfer_figure(table)), out / "transfer.png")
    atomic_json(out / "transfer.json", facts(ctx) | settings | checks)
    ctx.console.print(summary(table))
    ctx.say(f"wrote transfer.csv, .json and .png to {out}")


def other_target(ctx: Context, original: Target, folder: Path) -> Target:
    """A saved target. Raises TargetError when its input or classes are not the original's."""
    target = Target.load(folder).to(ctx.device)
    same = target.image_size == original.image_size and target.class_names == original.class_names
    if not same:
        raise TargetError(
            f"the target in {folder} ({target.name}, {target.image_size} px, {target.num_classes} classes) has another "
            f"input size or other classes than {original.name} ({original.image_size} px, {original.num_classes} "
            "classes); an explainer is only compared on the same images and classes"
        )
    return target


def check_fit(
    ctx: Context, given: Path, targets: dict[str, Target], fresh: dict[str, Path], methods: tuple[str, ...]
) -> None:
    """What does not fit is an error before the fine-tuning, which keeps the original's architecture.

    Raises ConfigError for a name without target, AttributionError for an explainer of another target's features.
    """
    unknown = set(fresh) - set(targets) - {FURTHER, POISONED}
    if unknown:
        raise ConfigError(f"--fresh-explainer {', '.join(sorted(unknown))}: no target of that name; --target adds one")
    for target in targets.values():
        with_target(given, target, ctx)
        baselines(ctx, target, methods)
    for name, folder in fresh.items():
        with_target(folder, targets.get(name, targets[ORIGINAL]), ctx)


def with_target(folder: Path, target: Target, ctx: Context) -> Explainer:
    """The explainer of a folder around any target that it fits.

    Raises AttributionError when it reads features that this target does not have.
    """
    network, training = load_explainer(folder, target)
    explainer = Explainer(target, network, training, ctx.params.refine, ctx.params.resources.memory_gb)
    return explainer.to(ctx.device)


def srg(
    ctx: Context, store: Cache, name: str, target: Target, maps: Callable[[Tensor, Tensor], Tensor],
    images: HeldOutImages,
) -> Tensor:  # fmt: skip
    """SRG of every image after each step, (T1, N): mean of `evaluate.references`, the target's predicted class."""
    parts = []
    with ctx.bar() as bar:
        task = bar.add_task(name[:12], total=len(images.indices))
        for start, part in images.chunks(ctx.params.resources.batch_size):

            def score(part: HeldOutImages = part) -> dict[str, Tensor]:
                scene = HeldOut.create(ctx.params, target, part.x.to(ctx.device))
                made = maps(scene.x, scene.classes)
                return {"srg": torch.stack([scene.srg(one, "fp32").cpu() for one in made])}

            parts.append(store.tensors(f"{name}-{start:05d}", score)["srg"])
            bar.advance(task, len(part.indices))
    return torch.cat(parts, dim=1)


def compared(gains: dict[str, Tensor], ctx: Context) -> list[dict[str, object]]:
    """A row for each method and step: mean with interval, and the paired difference from the fresh explainer."""
    resamples, seed, rows = ctx.params.evaluate.bootstrap, ctx.params.seed, []
    for method, values in gains.items():
        for step, own in enumerate(values.numpy()):
            interval = bootstrap_ci(own, resamples, seed)
            row: dict[str, object] = {
                "method": method, "steps": step, "srg": interval.mean, "low": interval.low, "high": interval.high,
            }  # fmt: skip
            if "fresh" in gains and method == "aha":
                gap = paired_difference(own, gains["fresh"][step].numpy(), resamples, seed)
                row |= {"minus_fresh": gap.mean, "minus_fresh_low": gap.low, "minus_fresh_high": gap.high}
            rows.append(row)
    return rows


def summary(table: pd.DataFrame) -> Table:
    shown = Table("target", "method", "T", "SRG", "95 %", box=None)
    for row in table.to_dict("records"):
        interval = f"{row['low']:.3f} .. {row['high']:.3f}"
        shown.add_row(row["target"], row["method"], str(row["steps"]), f"{row['srg']:.3f}", interval)
    return shown
