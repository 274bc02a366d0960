"""`aha study tradeoff`: how good a map is for what it costs, over refinement steps and over RISE's masks.

    passes    forward passes of the target per map + 2 for each backward pass, counted (`aha_core.cost`)
    seconds   wall time per map on this machine, in chunks of `resources.batch_size` images
    SRG       of the images that `aha evaluate` takes first, scored as it scores: predicted class, mean of
              `evaluate.references`, number format of `evaluate.precision`

One run of refinement gives AHA after 0 .. T steps, and one run of RISE all its numbers of masks, because the masks of
fewer are the first of more. Passes and seconds of such a run are shared out by the steps taken up to each row, or by
the masks. The explainer's own network is no pass of the target; it shows in the seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int
from rich.table import Table
from torch import Tensor

from aha_core.attribution import Explainer
from aha_core.baselines.rise import Rise
from aha_core.config import RefineConfig
from aha_core.cost import measured
from aha_core.data.dataset import PreparedImages
from aha_core.figures import method_label, to_png, tradeoff_figure
from aha_core.files import atomic_json
from aha_core.metrics import bootstrap_ci, paired_difference
from aha_core.protocols import Attributor
from aha_core.targets import Target
from stages.bench import facts, save_csv, save_figure
from stages.context import Context
from stages.images import chunk_starts, first_images
from stages.methods import baseline_settings
from stages.studies.common import Cache, Chunk, baselines, cache, clean_explainer, scored_chunks, with_refinement
from stages.tracking import Tracker

CEILING = "greedy"  # the patch order that looks for the score itself
METHODS = (CEILING, "chefer")


@dataclass(frozen=True)
class Made:
    """K maps of each of B images, and what they took together; each row counts what the rows before it took."""

    maps: Float[Tensor, "K B 1 H W"]
    passes: Float[Tensor, "K"]
    seconds: Float[Tensor, "K"]


@dataclass(frozen=True)
class Series:
    """A method with a row of the table for each place on its way.

    unit: what `counts` counts, steps or masks; a method without a way has one row and no unit.
    """

    method: str
    setting: str
    unit: str | None
    counts: tuple[int, ...]
    make: Callable[[Tensor, Tensor], Made]


@dataclass(frozen=True)
class Outcome:
    """Of N images: the score of each, and passes and seconds per map."""

    srg: Float[Tensor, "K N"]
    passes: Float[Tensor, "K"]
    seconds: Float[Tensor, "K"]


def run(
    ctx: Context, out: Path, steps: int = 10, fractions: Sequence[int] = (1, 3),
    rise_masks: Sequence[int] = (200, 1000, 4000), images: int = 40, explainer_folder: Path | None = None,
    methods: tuple[str, ...] = METHODS,
) -> None:  # fmt: skip
    """Measure, score, write tradeoff.csv, .json and .png, and add them to the pipeline's MLflow run.

    Args:
        fractions: numbers S of masked images per direction and reference, one refinement run each.
        explainer_folder: another explainer than the pipeline's; its results are not logged to the pipeline's run.
        methods: baselines as single points, beside RISE.
    """
    ctx.use_all_cores()
    given = explainer_folder or ctx.paths.explainer
    explainer = clean_explainer(ctx, given)
    target, masks = explainer.target, tuple(sorted(set(rise_masks)))
    points = tuple(name for name in dict.fromkeys(methods) if name != "rise")
    applicable, left_out = baselines(ctx, target, points)
    series = [refined(explainer, count, steps) for count in sorted(set(fractions))]
    series += [rise(ctx, target, masks), *(point(ctx, name, one, target) for name, one in applicable.items())]
    dataset, indices = first_images(ctx, images)
    tracker = Tracker.for_stage(ctx.tracking_uri, ctx.paths) if explainer_folder is None else None
    settings: dict[str, object] = {
        "images": len(indices), "steps": steps, "fractions": sorted(set(fractions)), "rise_masks": list(masks),
        "refinement": explainer.refinement.model_dump(mode="json", exclude={"steps", "fractions"}),
        "references": list(ctx.params.evaluate.references), "points": ctx.params.evaluate.points,
        "precision": ctx.params.evaluate.precision, "batch_size": ctx.params.resources.batch_size,
        "trained_for": explainer.training.target, "own_explainer": explainer_folder is None,
    }  # fmt: skip
    store = cache(ctx, "tradeoff", facts(ctx) | settings, [given])  # facts: the seconds are one machine's
    table = pd.DataFrame(rows(series, outcomes(ctx, store, target, series, dataset, indices), ctx))
    save_csv(table, out / "tradeoff.csv")
    save_figure(to_png(tradeoff_figure(table)), out / "tradeoff.png")
    atomic_json(out / "tradeoff.json", facts(ctx) | settings | {"left_out": left_out})
    if tracker:
        tracker.log_files([out / "tradeoff.csv", out / "tradeoff.json", out / "tradeoff.png"], "study")
        tracker.finish()
    ctx.console.print(summary(table))
    ctx.say(f"wrote tradeoff.csv, .json and .png to {out}")


def refined(explainer: Explainer, fractions: int, steps: int) -> Series:
    """AHA after 0 .. `steps` refinement steps with S = `fractions`."""
    settings = explainer.refinement.model_copy(update={"fractions": fractions})
    own = with_refinement(explainer, settings)

    def make(x: Tensor, classes: Tensor) -> Made:
        if not own.passes.micro_batch:  # found by passes that no map needs; first runs are slow
            own.refine(x[:1], own.attribute(x, classes)[:1], classes[:1], steps=1)
        with measured(own.target) as once:
            start = own.attribute(x, classes)
        with measured(own.target) as more:
            result = own.refine(x, start, classes, steps)
        share = work(result.taken, steps, settings)
        return Made(result.maps, once.passes + share * more.passes, once.seconds + share * more.seconds)

    return Series("aha", f"S = {fractions}", "steps", tuple(range(steps + 1)), make)


def work(taken: Int[Tensor, "B"], steps: int, settings: RefineConfig) -> Float[Tensor, "T1"]:
    """Share of all masked passes that 0 .. `steps` steps had, from the steps that each image took."""
    pairs = 2 * settings.fractions * len(settings.references)
    done = [
        pairs * taken.clamp(max=step).sum() + settings.hybrid * (step > 0) * len(taken) for step in range(steps + 1)
    ]
    return torch.stack([torch.as_tensor(one) for one in done]).double().cpu() / max(int(done[-1]), 1)


def rise(ctx: Context, target: Target, counts: tuple[int, ...]) -> Series:
    """RISE with each of the rising numbers of masks."""
    method = Rise(target, baseline_settings(ctx))

    def make(x: Tensor, classes: Tensor) -> Made:
        with measured(target) as cost:
            maps = method.growing(x, classes, counts)
        share = torch.tensor(counts).double() / counts[-1]
        return Made(maps, share * cost.passes, share * cost.seconds)

    return Series("rise", "", "masks", counts, make)


def point(ctx: Context, name: str, method: Attributor, target: Target) -> Series:
    """A baseline as it is in the evaluation."""

    def make(x: Tensor, classes: Tensor) -> Made:
        with measured(target) as cost:
            maps = method.attribute(x, classes)
        return Made(maps[None], torch.tensor([cost.passes]).double(), torch.tensor([cost.seconds]).double())

    grid = ctx.params.evaluate.patch_grid
    return Series(name, f"{grid} x {grid} patches" if name == CEILING else "", None, (0,), make)


def outcomes(
    ctx: Context, store: Cache, target: Target, series: Sequence[Series], dataset: PreparedImages, indices: list[int]
) -> list[Outcome]:
    """Of each series on all images, in chunks that a second run finds again."""
    parts: list[list[dict[str, Tensor]]] = [[] for _ in series]
    with ctx.bar() as bar:
        task = bar.add_task("tradeoff", total=len(chunk_starts(ctx, len(indices))) * len(series))
        for chunk in scored_chunks(ctx, dataset, indices, target):
            for own, done in zip(series, parts, strict=True):
                bar.update(task, description=f"{own.method} {own.setting}"[:12])

                def measure(own: Series = own, chunk: Chunk = chunk) -> dict[str, Tensor]:
                    made = own.make(chunk.x, chunk.classes)
                    gains = torch.stack([chunk.scores(own.method, maps)[-1] for maps in made.maps])
                    return {"srg": gains, "passes": made.passes, "seconds": made.seconds}

                key = f"{own.method}{own.setting}".replace(" ", "")
                done.append(store.tensors(f"{key}-{chunk.start:05d}", measure))
                bar.advance(task)
    return [
        Outcome(
            torch.cat([part["srg"] for part in done], dim=1),
            *(torch.stack([part[name] for part in done]).sum(dim=0) / len(indices) for name in ("passes", "seconds")),
        )
        for done in parts
    ]


def rows(series: Sequence[Series], found: Sequence[Outcome], ctx: Context) -> list[dict[str, object]]:
    """Mean score with its 95 % interval, and paired differences from AHA in one pass and from RISE's largest N."""
    resamples, seed, table = ctx.params.evaluate.bootstrap, ctx.params.seed, []
    gains = {own.method: outcome.srg.numpy() for own, outcome in zip(series, found, strict=True)}
    against = {"minus_one_pass": gains["aha"][0], "minus_rise": gains["rise"][-1]}
    for own, outcome in zip(series, found, strict=True):
        for place, values in enumerate(outcome.srg.numpy()):
            interval = bootstrap_ci(values, resamples, seed)
            row: dict[str, object] = {
                "method": own.method, "setting": own.setting, "steps": None, "masks": None,
                "passes": float(outcome.passes[place]), "seconds_on_this_machine": float(outcome.seconds[place]),
                "srg": interval.mean, "low": interval.low, "high": interval.high,
            }  # fmt: skip
            if own.unit:
                row[own.unit] = own.counts[place]
            for name, other in against.items():
                gap = paired_difference(values, other, resamples, seed)
                row |= {name: gap.mean, f"{name}_low": gap.low, f"{name}_high": gap.high}
            table.append(row)
    return table


def summary(table: pd.DataFrame) -> Table:
    shown = Table("method", "setting", "T or masks", "passes", "seconds", "SRG", "95 %", box=None)
    for row in table.to_dict("records"):
        count = row["steps"] if row["method"] == "aha" else row["masks"]
        shown.add_row(
            method_label(row["method"]), row["setting"], "" if count != count else f"{count:,.0f}",
            f"{row['passes']:,.0f}", f"{row['seconds_on_this_machine']:.3g}", f"{row['srg']:.3f}",
            f"{row['low']:.3f}..{row['high']:.3f}",
        )  # fmt: skip
    return shown
