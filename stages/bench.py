"""`aha bench`: what the relaxations and a training step cost, measured in one run on the pipeline's own target."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import torch
from rich.table import Table

from aha_core.benchmarks.evaluation import evaluation_speed
from aha_core.benchmarks.hard_gradient import Problem, estimate
from aha_core.benchmarks.measure import in_fresh_process
from aha_core.benchmarks.passes import benchmark_passes
from aha_core.benchmarks.ranking import benchmark, gradient_agreement
from aha_core.benchmarks.training import HeldOut, StepCost, Trainer, quality_over_time, step_cost, steps_within
from aha_core.config import Params, load_params
from aha_core.data.dataset import PreparedImages
from aha_core.data.labels import label_map
from aha_core.errors import ConfigError, DataError
from aha_core.figures import quality_figure, ranking_figure, to_png
from aha_core.files import atomic_json, atomic_path, atomic_text
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import generator
from aha_core.precision import has_bf16
from aha_core.ranking import RELAXATIONS
from aha_core.references import evaluation_reference
from aha_core.selection import evaluation_indices
from aha_core.targets import Target
from stages.backbone import with_backbone
from stages.context import Context

GRADIENT_GRIDS = (7, 14)  # where the Monte-Carlo estimate of the hard gradient is affordable
GRADIENT_IMAGES, GRADIENT_BUDGETS = 8, 8
STEPS_MEASURED = 5


def bench_context(params: Path | None, device: str | None, threads: int) -> Context:
    """The context of a benchmark: everything in one process."""
    return replace(Context.create(Path.cwd(), params, workers=0, device=device), threads=threads)


def ranking(ctx: Context, out: Path, pairs: int, cells: tuple[int, ...]) -> None:
    """Table and figure of every relaxation over N; gradient agreement with `pairs` Monte-Carlo pairs per image."""
    params = ctx.params
    config = params.ranking.model_copy(update={"standardise": True})
    taus = (params.ranking.tau_start, params.ranking.tau_end)
    problems: dict[tuple[float, int], Problem] = {}
    if pairs:
        torch.set_num_threads(ctx.threads)
        with ctx.console.status("hard gradient by Monte Carlo"):
            problems = _problems(ctx, taus, pairs, cells)
    rows = []
    agreement = gradient_agreement(problems, config, params.seed)
    with ctx.bar() as bar:
        task = bar.add_task("ranking", total=len(cells) * len(taus) * len(RELAXATIONS))
        for row in benchmark(config, taus, ctx.device, ctx.threads, params.seed, agreement, cells):
            rows.append(row)
            bar.advance(task)
    table = pd.DataFrame(rows)
    out.mkdir(parents=True, exist_ok=True)
    save_csv(table, out / "ranking.csv")
    save_figure(to_png(ranking_figure(table)), out / "ranking.png")
    atomic_json(out / "ranking.json", facts(ctx) | {"pairs": pairs, "iterations": config.iterations})
    ctx.console.print(_ranking_table(table))
    ctx.say(f"wrote ranking.csv, ranking.png, ranking.json to {out}")


def _problems(
    ctx: Context, taus: tuple[float, ...], pairs: int, cells: tuple[int, ...]
) -> dict[tuple[float, int], Problem]:
    params = ctx.params
    target, dataset, _ = _target_and_images(ctx, "test")
    images, _ = dataset.batch(evaluation_indices(GRADIENT_IMAGES, len(dataset)))
    x = (images.float() / 255).to(ctx.device)
    with torch.no_grad():
        classes = target(x).argmax(dim=1)
    passes = MaskedPasses(target, "fp32", params.resources.memory_gb)
    reference = evaluation_reference(x, params.evaluate.references[0], params.perturbation, range(len(x)))
    return {
        (tau, grid * grid): estimate(passes, x, classes, reference, grid, tau, pairs, GRADIENT_BUDGETS, params.seed)
        for tau in taus
        for grid in GRADIENT_GRIDS
        if grid * grid in cells
    }


def training(ctx: Context, against: Path, out: Path, minutes: float, images: int, batch_size: int | None) -> None:
    """Cost of a step and quality over time, of the active parameters and of another file's, one after the other.

    Raises ConfigError when the two do not explain the same target on the same data.
    """
    presets = {"ours": ctx.params, against.stem: load_params(against)}
    for section in ("seed", "data", "target", "perturbation"):
        if getattr(presets["ours"], section) != getattr(presets[against.stem], section):
            raise ConfigError(f"{against.name} has another section `{section}` than params.yaml: not the same problem")
    _target_and_images(ctx, "train")  # missing data is an error before hours of training
    costs, quality = [], []
    for name, given in presets.items():
        params = with_backbone(replace(ctx, params=given))
        if batch_size is not None:
            params = params.model_copy(update={"train": params.train.model_copy(update={"batch_size": batch_size})})
        job = (params, str(ctx.paths.data), str(ctx.paths.target), ctx.device)
        with ctx.console.status(f"{name}: cost of a step"):
            cost = in_fresh_process(_cost, *job, threads=ctx.threads)
        costs.append({"preset": name, "batch_size": params.train.batch_size} | asdict(cost))
        if minutes:
            with ctx.console.status(f"{name}: {minutes:g} minutes of training"):
                job = (steps_within(params, cost, minutes), *job[1:])
                rows = in_fresh_process(_quality, *job, minutes, images, threads=ctx.threads)
            quality += [{"preset": name} | row for row in rows]
    table, out_table = pd.DataFrame(costs), pd.DataFrame(quality)
    out.mkdir(parents=True, exist_ok=True)
    save_csv(table, out / "train.csv")
    if len(out_table):
        save_csv(out_table, out / "quality.csv")
        labels = {name: "AHA, default preset" if name == "ours" else name for name in presets}
        save_figure(to_png(quality_figure(out_table, labels)), out / "quality.png")
    atomic_json(out / "train.json", facts(ctx) | {"minutes": minutes, "images": images})
    ctx.console.print(_cost_table(table))
    ctx.say(f"wrote the results to {out}")


def passes(ctx: Context, out: Path, images: int, compiled: bool) -> None:
    """Table of the ways to run a masked pass on the pipeline's target."""
    target, _, _ = _target_and_images(ctx, "test")
    torch.set_num_threads(ctx.threads)
    with ctx.console.status("masked passes"):
        rows = list(benchmark_passes(target, images, torch.device(ctx.device), compiled, ctx.params.seed))
    out.mkdir(parents=True, exist_ok=True)
    save_csv(pd.DataFrame(rows), out / "passes.csv")
    atomic_json(out / "passes.json", facts(ctx) | {"images": images})
    shown = Table("variant", "forward, ms/image", "with gradient, ms/image", box=None)
    for row in rows:
        cells = (
            [str(row["skipped"])] if "skipped" in row else [f"{row[k]:.2f}" for k in ("forward_ms", "with_gradient_ms")]
        )
        shown.add_row(str(row["variant"]), *cells)
    ctx.console.print(shown)
    ctx.say(f"wrote passes.csv and passes.json to {out}")


def evaluation(ctx: Context, out: Path, images: int, rounds: int) -> None:
    """Throughput of the metric against that of the target alone, for both number formats."""
    params = ctx.params
    target, dataset, _ = _target_and_images(ctx, "test")
    torch.set_num_threads(ctx.threads)
    pixels, _ = dataset.batch(evaluation_indices(min(images, len(dataset)), len(dataset)))
    x = (pixels.float() / 255).to(ctx.device)
    with torch.no_grad():
        classes = target(x).argmax(dim=1)
    maps = torch.rand(len(x), 1, *x.shape[2:], generator=generator(params.seed, 10)).to(x)
    reference = evaluation_reference(x, params.evaluate.references[0], params.perturbation, range(len(x)))
    rows = []
    with ctx.console.status("evaluation"):
        for precision in ("fp32", "bf16"):
            scorer = ctx.scorer(target, precision)
            speed = evaluation_speed(scorer, x, maps, classes, reference, params.evaluate.points, rounds)
            rows.append({"precision": precision} | asdict(speed))
    out.mkdir(parents=True, exist_ok=True)
    save_csv(pd.DataFrame(rows), out / "evaluation.csv")
    atomic_json(out / "evaluation.json", facts(ctx) | {"images": len(x), "points": params.evaluate.points})
    shown = Table("precision", "plain passes/s", "evaluation passes/s", "efficiency", box=None)
    for row in rows:
        shown.add_row(row["precision"], f"{row['plain']:.1f}", f"{row['evaluation']:.1f}", f"{row['efficiency']:.0%}")
    ctx.console.print(shown)
    ctx.say(f"wrote evaluation.csv and evaluation.json to {out}")


def trainer_on(params: Params, data: str, target: str, device: str) -> Trainer:
    """A trainer on prepared data and a saved target."""
    loaded = Target.load(Path(target))
    dataset = PreparedImages(Path(data), "train", params.train.augment)
    return Trainer.create(params, loaded, dataset, label_map(dataset.class_names, loaded.class_names), device)


def _cost(params: Params, data: str, target: str, device: str) -> StepCost:
    enough = params.model_copy(update={"train": params.train.model_copy(update={"steps": 2 * STEPS_MEASURED + 1})})
    params = enough if enough.train.steps > params.train.steps else params
    return step_cost(trainer_on(params, data, target, device), STEPS_MEASURED)


def _quality(
    params: Params, data: str, target: str, device: str, minutes: float, images: int
) -> list[dict[str, float]]:
    trainer = trainer_on(params, data, target, device)
    test = PreparedImages(Path(data), "test")
    pixels, _ = test.batch(evaluation_indices(images, len(test)))
    held_out = HeldOut.create(params, trainer.passes.target, (pixels.float() / 255).to(device))
    return list(quality_over_time(trainer, held_out, minutes, every=minutes * 60 / 12))


def _target_and_images(ctx: Context, split: str) -> tuple[Target, PreparedImages, list[int]]:
    """Raises DataError, TargetError when `aha target` has not run."""
    target = Target.load(ctx.paths.target).to(ctx.device)
    dataset = PreparedImages(ctx.paths.data, split)
    if not len(dataset):
        raise DataError(f"the split {split} is empty; run `aha prepare`")
    return target, dataset, label_map(dataset.class_names, target.class_names)


def facts(ctx: Context) -> dict[str, object]:
    """What a reader must know to compare: device, threads, versions, target."""
    device = torch.device(ctx.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "device": name, "threads": ctx.threads, "fast_bf16": has_bf16(device), "torch": torch.__version__,
        "target": ctx.params.target.name, "image_size": ctx.params.data.image_size, "seed": ctx.params.seed,
    }  # fmt: skip


def save_csv(table: pd.DataFrame, file: Path) -> None:
    atomic_text(file, table.to_csv(index=False, float_format="%.5g", lineterminator="\n"))


def save_figure(png: bytes, file: Path) -> None:
    with atomic_path(file) as temporary:
        temporary.write_bytes(png)


def _ranking_table(table: pd.DataFrame) -> Table:
    shown = Table("N", "tau", "method", "ms/image", "MB/image", "residual", "|soft-hard|", "cosine", box=None)
    for row in table.to_dict("records"):
        head = (f"{row['cells']:,}", f"{row['tau']:g}", row["method"])
        if isinstance(row.get("skipped"), str):
            shown.add_row(*head, row["skipped"])
            continue
        cosine = row.get("cosine", float("nan"))
        shown.add_row(
            *head, f"{1000 * row['seconds'] / row['batch']:.3g}", f"{row['peak_mb'] / row['batch']:.3g}",
            f"{row['residual']:.1e}", f"{row['soft_hard']:.3f}", "" if cosine != cosine else f"{cosine:.2f}",
        )  # fmt: skip
    return shown


def _cost_table(table: pd.DataFrame) -> Table:
    shown = Table("preset", "images/s", "peak MB", "masked passes", "outside", box=None)
    for row in table.to_dict("records"):
        shown.add_row(
            row["preset"], f"{row['images_per_second']:.3g}", f"{row['peak_mb']:.0f}", f"{row['masked_passes']:g}",
            f"{row['outside']:.0%}",
        )  # fmt: skip
    return shown
