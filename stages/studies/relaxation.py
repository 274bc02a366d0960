"""`aha study relaxation`: what the relaxation, its temperature, fractions and grids are worth, as DVC experiments.

Each setting (`stages.studies.experiments`) is trained for the same number of masked passes. Two measurements need no
experiment: the correlation of soft with hard scores over tau for the trained explainer's maps, and along a training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from aha_core.attribution import Explainer
from aha_core.benchmarks.correlation import soft_hard_correlation
from aha_core.benchmarks.training import Trainer
from aha_core.config import Params, parse_params
from aha_core.data.dataset import PreparedImages
from aha_core.figures import correlation_figure, to_png
from aha_core.files import atomic_json
from aha_core.masked_passes import MaskedPasses
from aha_core.ranking import RELAXATIONS, temperature
from aha_core.references import evaluation_reference
from aha_core.selection import evaluation_indices
from stages.bench import facts, save_csv, save_figure, trainer_on
from stages.context import Context
from stages.studies.experiments import Setting, run_settings

STEPS, BATCH = 300, 16  # of the default with S = 2 fractions: 19,200 masked passes
TAUS = (1.0, 0.65, 0.4, 0.25, 0.15, 0.08)
CORRELATION_GRID, CORRELATION_FRACTIONS, CORRELATION_IMAGES = 14, 8, 100
CHECKS = 12  # of the correlation along a training
SMALL_GRIDS = {"ranking.grid_min": 7, "ranking.grid_max": 14}  # N x N methods need hours on 28 x 28 cells


def settings() -> list[Setting]:
    """Every experiment; the default setting appears in each family that has it."""
    equal: dict[str, object] = {"train.steps": STEPS, "train.batch_size": BATCH}

    def relaxation(method: str, noise: bool = False) -> Setting:
        name = f"{method} with noise" if noise else method
        varied = {"ranking.method": method} | ({"ranking.noise": True} if noise else {})
        return Setting("relaxation", name, varied, {"ranking.noise": False} | equal | SMALL_GRIDS)

    def tau(start: float, end: float) -> Setting:
        varied = {"ranking.tau_start": start, "ranking.tau_end": end}
        return Setting("temperature", f"{start:g} to {end:g}", varied, equal)

    def fractions(count: int) -> Setting:
        varied = {"objective.fractions": count, "objective.sampling": "stratified"}
        return Setting("fractions", f"{count} per direction", varied, equal | {"train.steps": STEPS * 2 // count})

    def grid(low: int, high: int) -> Setting:
        varied = {"ranking.grid_min": low, "ranking.grid_max": high}
        return Setting("grid", f"{low} to {high}", varied, equal)

    def fixed(count: int) -> Setting:
        varied = {"objective.fractions": count, "objective.sampling": "grid"}
        steps = {"train.steps": STEPS * 2 // (count - 2)}
        return Setting("fractions", f"fixed grid of {count}", varied, equal | steps)

    return [
        *(relaxation(method, noise=method == "gumbel_sinkhorn") for method in RELAXATIONS),
        relaxation("transport", noise=True),
        *(
            tau(*pair)
            for pair in ((1.0, 0.3), (0.65, 0.15), (0.4, 0.1), (0.3, 0.05), (0.65, 0.05), (0.3, 0.3), (0.15, 0.15))
        ),
        *(fractions(count) for count in (1, 2, 4, 8)),
        *(fixed(count) for count in (4, 8, 16)),
        *(grid(*pair) for pair in ((7, 7), (7, 14), (7, 28), (28, 28), (7, 64))),
    ]


def run(ctx: Context, out: Path, chosen: list[Setting] | None = None, images: int = 100) -> None:
    """Run the missing experiments, then write tables and figures."""
    run_settings(ctx, out, "relaxation", settings() if chosen is None else chosen, images)
    ctx.use_all_cores()
    with ctx.console.status("correlation over temperature"):
        by_tau = pd.DataFrame(correlation_by_tau(ctx))
    with ctx.console.status("correlation along a training"):
        annealing = pd.DataFrame(correlation_along_training(ctx))
    save_csv(by_tau, out / "correlation-by-tau.csv")
    save_csv(annealing, out / "correlation-along-training.csv")
    save_figure(to_png(correlation_figure(by_tau, annealing)), out / "correlation.png")
    atomic_json(out / "relaxation.json", facts(ctx) | {"steps": STEPS, "batch_size": BATCH, "images": images})
    ctx.say(f"wrote the study to {out}; `dvc exp show` and the MLflow UI list its experiments")


def correlation_by_tau(ctx: Context) -> Iterator[dict[str, object]]:
    """Soft against hard scores of the trained explainer's maps, for every relaxation and TAUS."""
    params = ctx.params
    explainer = Explainer.load(ctx.paths.explainer, ctx.paths.target).to(ctx.device)
    x, classes, reference = _images(ctx, params, explainer.passes)
    maps = explainer.attribute(x, classes)
    for method in RELAXATIONS:
        changes = {"method": method, "standardise": True, "noise": method == "gumbel_sinkhorn"}
        ranking = params.ranking.model_copy(update=changes)
        for tau in TAUS:
            found = soft_hard_correlation(
                explainer.passes, x, classes, reference, maps, ranking, tau, CORRELATION_GRID, CORRELATION_FRACTIONS,
                params.seed,
            )  # fmt: skip
            yield {"method": method, "tau": tau, "noise": ranking.noise} | asdict(found)


def correlation_along_training(ctx: Context) -> Iterator[dict[str, object]]:
    """The same for the default and the paper's ranking while they train, at each moment's temperature."""
    paper = {"method": "gumbel_sinkhorn", "standardise": False, "noise": True, "tau_start": 1.0, "tau_end": 0.3}
    for preset, changes in {"default": {}, "Gumbel-Sinkhorn as in the paper": paper | {"grid_max": 14}}.items():
        raw = ctx.params.model_dump(mode="json")
        raw["ranking"] |= changes
        raw["train"] |= {"steps": STEPS, "batch_size": BATCH}
        params = parse_params(raw)
        trainer: Trainer = trainer_on(params, str(ctx.paths.data), str(ctx.paths.target), ctx.device)
        x, classes, reference = _images(ctx, params, trainer.passes)
        for check in range(1, CHECKS + 1):
            trainer.run(STEPS * check // CHECKS - trainer.state.step)
            progress = trainer.state.step / STEPS
            found = soft_hard_correlation(
                trainer.passes, x, classes, reference, trainer.maps(x, classes), params.ranking,
                temperature(params.ranking, progress), CORRELATION_GRID, CORRELATION_FRACTIONS, params.seed,
            )  # fmt: skip
            yield {"preset": preset, "progress": progress} | asdict(found)


def _images(ctx: Context, params: Params, passes: MaskedPasses) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Held-out images, their predicted classes, and the first reference of the evaluation."""
    dataset = PreparedImages(ctx.paths.data, "test")
    pixels, _ = dataset.batch(evaluation_indices(min(CORRELATION_IMAGES, len(dataset)), len(dataset)))
    x = (pixels.float() / 255).to(ctx.device)
    with torch.no_grad():
        classes = passes.target(x).argmax(dim=1)
    name = params.evaluate.references[0]
    return x, classes, evaluation_reference(x, name, params.perturbation, range(len(x)))
