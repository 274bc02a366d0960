"""`aha study relaxation`: what the relaxation, its temperature, fractions and grids are worth, as DVC experiments.

Each setting is one `dvc exp run` on the active parameters (so that it also stands in MLflow), trained for the same
number of masked passes; an experiment that is already there is not run again. Two measurements need no experiment: the
correlation of soft with hard scores over tau for the trained explainer's maps, and along a training.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch

from aha_core.attribution import Explainer
from aha_core.benchmarks.correlation import soft_hard_correlation
from aha_core.benchmarks.training import Trainer
from aha_core.config import Params, parse_params
from aha_core.data.dataset import PreparedImages
from aha_core.errors import ResourceError
from aha_core.figures import correlation_figure, settings_figure, to_png
from aha_core.files import atomic_json
from aha_core.masked_passes import MaskedPasses
from aha_core.metrics import bootstrap_ci, paired_difference
from aha_core.ranking import RELAXATIONS, temperature
from aha_core.references import evaluation_reference
from aha_core.selection import evaluation_indices
from stages.bench import facts, save_csv, save_figure, trainer_on
from stages.context import Context

STEPS, BATCH = 300, 16  # of the default with S = 2 fractions: 19,200 masked passes
TAUS = (1.0, 0.65, 0.4, 0.25, 0.15, 0.08)
CORRELATION_GRID, CORRELATION_FRACTIONS, CORRELATION_IMAGES = 14, 8, 100
CHECKS = 12  # of the correlation along a training
SMALL_GRIDS = {"ranking.grid_min": 7, "ranking.grid_max": 14}  # N x N methods need hours on 28 x 28 cells


@dataclass(frozen=True)
class Setting:
    """One experiment: what is varied, its name there, the parameters that it changes."""

    family: str
    name: str
    changes: Mapping[str, object]

    @property
    def experiment(self) -> str:
        return f"study-{self.family}-{self.name}".replace(" ", "-").replace(".", "_")


def settings() -> list[Setting]:
    """Every experiment; the default setting appears in each family that has it."""

    def relaxation(method: str, noise: bool = False) -> Setting:
        name = f"{method} with noise" if noise else method
        return Setting("relaxation", name, {"ranking.method": method, "ranking.noise": noise} | SMALL_GRIDS)

    def tau(start: float, end: float) -> Setting:
        return Setting("temperature", f"{start:g} to {end:g}", {"ranking.tau_start": start, "ranking.tau_end": end})

    def fractions(count: int) -> Setting:
        changes = {"objective.fractions": count, "objective.sampling": "stratified"}
        return Setting("fractions", f"{count} per direction", changes | {"train.steps": STEPS * 2 // count})

    def grid(low: int, high: int) -> Setting:
        return Setting("grid", f"{low} to {high}", {"ranking.grid_min": low, "ranking.grid_max": high})

    def fixed(count: int) -> Setting:
        changes = {"objective.fractions": count, "objective.sampling": "grid"}
        return Setting("fractions", f"fixed grid of {count}", changes | {"train.steps": STEPS * 2 // (count - 2)})

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
    out.mkdir(parents=True, exist_ok=True)
    todo = settings() if chosen is None else chosen
    with ctx.bar() as bar:
        task = bar.add_task("experiments", total=len(todo))
        known = existing(ctx.paths.root)
        for setting in todo:
            bar.update(task, description=setting.name[:12])
            if setting.experiment not in known:
                experiment(ctx.paths.root, setting, images)
            bar.advance(task)
    table = collect(ctx, todo)
    save_csv(table, out / "settings.csv")
    save_figure(to_png(settings_figure(table)), out / "settings.png")
    ctx.use_all_cores()
    with ctx.console.status("correlation over temperature"):
        by_tau = pd.DataFrame(correlation_by_tau(ctx))
    with ctx.console.status("correlation along a training"):
        annealing = pd.DataFrame(correlation_along_training(ctx))
    save_csv(by_tau, out / "correlation-by-tau.csv")
    save_csv(annealing, out / "correlation-along-training.csv")
    save_figure(to_png(correlation_figure(by_tau, annealing)), out / "correlation.png")
    atomic_json(out / "study.json", facts(ctx) | {"steps": STEPS, "batch_size": BATCH, "images": images})
    ctx.say(f"wrote the study to {out}; `dvc exp show` and the MLflow UI list its experiments")


def existing(root: Path) -> set[str]:
    return set(_dvc(root, "exp", "list", "--name-only").split())


def experiment(root: Path, setting: Setting, images: int) -> None:
    """One experiment up to `evaluate`, in a temporary copy of the checkout.

    Raises ResourceError with the end of DVC's output when it fails.
    """
    base: dict[str, object] = {
        "train.steps": STEPS, "train.batch_size": BATCH, "refine.steps": 0, "evaluate.images": images,
        "evaluate.methods": "[centre]", "evaluate.gallery": 1, "resources.workers": 0, "resources.threads": 1,
    }  # fmt: skip
    changes = [f"{name}={_yaml(value)}" for name, value in (base | dict(setting.changes)).items()]
    flags = [part for change in changes for part in ("--set-param", change)]
    _dvc(root, "exp", "run", "--temp", "--name", setting.experiment, *flags, "evaluate")


def collect(ctx: Context, chosen: list[Setting]) -> pd.DataFrame:
    """One row per setting: SRG with its interval, the paired difference from the default, stability of the gradient."""
    config, rows = ctx.params.evaluate, []
    per_image: dict[str, pd.Series] = {}
    with tempfile.TemporaryDirectory() as folder:
        for setting in chosen:
            scores = pd.read_parquet(_get(ctx, setting, "outputs/evaluation/scores.parquet", folder))
            curve = pd.read_csv(_get(ctx, setting, "outputs/plots/training.csv", folder))
            gains = scores[scores.method == "aha_t0"].groupby("index").srg.mean()
            per_image[setting.experiment] = gains
            late = curve.gradient_norm[len(curve) // 2 :]
            interval = bootstrap_ci(gains.to_numpy(), config.bootstrap, ctx.params.seed)
            rows.append(
                {
                    "family": setting.family, "setting": setting.name, "default": is_default(setting, ctx.params),
                    "experiment": setting.experiment, "srg": interval.mean, "low": interval.low, "high": interval.high,
                    "late_gradient_norm": late.mean(), "late_gradient_variation": late.std() / late.mean(),
                }
            )  # fmt: skip
    defaults = {setting.family: setting.experiment for setting in chosen if is_default(setting, ctx.params)}
    for row, setting in zip(rows, chosen, strict=True):
        base = per_image.get(defaults.get(setting.family, ""))
        if base is not None and not row["default"]:
            own = per_image[setting.experiment]
            difference = paired_difference(
                own.to_numpy(), base[own.index].to_numpy(), config.bootstrap, ctx.params.seed
            )
            row |= {"difference": difference.mean, "difference_low": difference.low, "difference_high": difference.high}
    return pd.DataFrame(rows)


VARIED = {
    "relaxation": ("ranking.method",),
    "temperature": ("ranking.tau_start", "ranking.tau_end"),
    "fractions": ("objective.fractions", "objective.sampling"),
    "grid": ("ranking.grid_min", "ranking.grid_max"),
}


def is_default(setting: Setting, params: Params) -> bool:
    """Whether a setting is the active preset's in what its family varies (and without noise)."""
    raw = params.model_dump(mode="json")
    same = all(setting.changes[name] == raw[name.split(".")[0]][name.split(".")[1]] for name in VARIED[setting.family])
    return same and "noise" not in setting.name


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


def _get(ctx: Context, setting: Setting, output: str, folder: str) -> Path:
    file = Path(folder) / f"{setting.experiment}-{Path(output).name}"
    _dvc(ctx.paths.root, "get", ".", output, "--rev", setting.experiment, "--out", str(file))
    return file


def _yaml(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _dvc(root: Path, *arguments: str) -> str:
    """Standard output of a DVC command. Raises ResourceError with its last lines when it fails."""
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise ResourceError(f"dvc {' '.join(arguments[:2])} failed; the same command continues\n{tail}")
    return done.stdout
