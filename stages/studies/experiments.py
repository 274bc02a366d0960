"""Settings of training and explainer as DVC experiments: one `dvc exp run` each, compared in one table.

Experiments stand in DVC and in MLflow; one with the same changes on the same commit is not run again. Scores are those
of one-pass maps on held-out images; a setting's difference from its family's default is paired by image. Each setting
is one training: an interval says nothing about another seed.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from aha_core.config import Params
from aha_core.errors import ResourceError
from aha_core.figures import settings_figure, to_png
from aha_core.metrics import bootstrap_ci, paired_difference
from stages.bench import save_csv, save_figure
from stages.context import Context


@dataclass(frozen=True)
class Setting:
    """One experiment: what is varied, its name there, the parameters that are varied, and those that go along."""

    family: str
    name: str
    varied: Mapping[str, object]
    also: Mapping[str, object] = field(default_factory=dict)

    @property
    def changes(self) -> dict[str, object]:
        return {**self.also, **self.varied}

    @property
    def experiment(self) -> str:
        """Its name in DVC: settings with the same changes are one experiment."""
        digest = hashlib.sha256(json.dumps(self.changes, sort_keys=True).encode()).hexdigest()[:8]
        return f"study-{self.name}-{digest}".replace(" ", "-").replace(".", "_")

    def is_default(self, params: Params) -> bool:
        """Whether it is the active preset in what its family varies."""
        raw = params.model_dump(mode="json")
        return all(value == raw[name.split(".")[0]][name.split(".")[1]] for name, value in self.varied.items())


def run_settings(ctx: Context, out: Path, study: str, settings: list[Setting], images: int) -> None:
    """Run the missing experiments, evaluated on this many images, then write STUDY.csv and STUDY.png."""
    settings = [replace(setting, also={**setting.also, "evaluate.images": images}) for setting in settings]
    out.mkdir(parents=True, exist_ok=True)
    known = existing(ctx.paths.root)
    with ctx.bar() as bar:
        task = bar.add_task("experiments", total=len(settings))
        for setting in settings:
            bar.update(task, description=setting.name[:12])
            if setting.experiment not in known:
                experiment(ctx.paths.root, setting)
                known.add(setting.experiment)
            bar.advance(task)
    table = collect(ctx, settings)
    save_csv(table, out / f"{study}.csv")
    save_figure(to_png(settings_figure(table, "held-out SRG in one pass")), out / f"{study}.png")


def existing(root: Path) -> set[str]:
    return set(_dvc(root, "exp", "list", "--name-only").split())


def experiment(root: Path, setting: Setting) -> None:
    """One experiment up to `evaluate`, in a temporary copy of the checkout.

    Raises ResourceError with the end of DVC's output when it fails.
    """
    base: dict[str, object] = {
        "refine.steps": 0, "evaluate.methods": ["centre"], "evaluate.measures": [], "evaluate.slow.methods": [],
        "evaluate.slow.measures": [], "evaluate.checks.methods": [], "evaluate.gallery": 1, "resources.workers": 0,
        "resources.threads": 1,
    }  # fmt: skip
    changes = [f"{name}={json.dumps(value)}" for name, value in (base | setting.changes).items()]
    flags = [part for change in changes for part in ("--set-param", change)]
    _dvc(root, "exp", "run", "--temp", "--name", setting.experiment, *flags, "evaluate")


def collect(ctx: Context, settings: list[Setting]) -> pd.DataFrame:
    """One row per setting: SRG with its interval, the paired difference from the default, stability of the gradient."""
    config, seed, rows = ctx.params.evaluate, ctx.params.seed, []
    per_image: dict[str, pd.Series] = {}
    with tempfile.TemporaryDirectory() as folder:
        for setting in settings:
            scores = pd.read_parquet(_get(ctx, setting, "outputs/evaluation/scores.parquet", folder))
            curve = pd.read_csv(_get(ctx, setting, "outputs/plots/training.csv", folder))
            gains = scores[scores.method == "aha_t0"].groupby("index").srg.mean()
            per_image[setting.experiment] = gains
            late = curve.gradient_norm[len(curve) // 2 :]
            interval = bootstrap_ci(gains.to_numpy(), config.bootstrap, seed)
            rows.append(
                {
                    "family": setting.family, "setting": setting.name, "default": setting.is_default(ctx.params),
                    "experiment": setting.experiment, "srg": interval.mean, "low": interval.low, "high": interval.high,
                    "late_gradient_norm": late.mean(), "late_gradient_variation": late.std() / late.mean(),
                }
            )  # fmt: skip
    defaults = {setting.family: setting.experiment for setting in settings if setting.is_default(ctx.params)}
    for row, setting in zip(rows, settings, strict=True):
        base = per_image.get(defaults.get(setting.family, ""))
        if base is not None and not row["default"]:
            own = per_image[setting.experiment]
            gap = paired_difference(own.to_numpy(), base[own.index].to_numpy(), config.bootstrap, seed)
            row |= {"difference": gap.mean, "difference_low": gap.low, "difference_high": gap.high}
    return pd.DataFrame(rows)


def _get(ctx: Context, setting: Setting, output: str, folder: str) -> Path:
    file = Path(folder) / f"{setting.experiment}-{Path(output).name}"
    _dvc(ctx.paths.root, "get", ".", output, "--rev", setting.experiment, "--out", str(file), "--force")
    return file


def _dvc(root: Path, *arguments: str) -> str:
    """Standard output of a DVC command. Raises ResourceError with its last lines when it fails."""
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise ResourceError(f"dvc {' '.join(arguments[:2])} failed; the same command continues\n{tail}")
    return done.stdout
