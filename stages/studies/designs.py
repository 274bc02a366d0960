"""`aha study designs`: what each part of explainer and training is worth, one change of the active preset at a time."""

from __future__ import annotations

from pathlib import Path

from aha_core.config import FeaturesConfig
from aha_core.errors import ConfigError
from aha_core.files import atomic_json
from stages.bench import facts
from stages.context import Context
from stages.studies.experiments import Setting, run_settings


def run(ctx: Context, out: Path, steps: int = 150, images: int = 100) -> None:
    """Run the missing experiments, then write designs.csv, .png and .json.

    Raises ConfigError for an explainer of another kind than `features`.
    """
    explainer = ctx.params.explainer
    if not isinstance(explainer, FeaturesConfig):
        raise ConfigError(f"explainer.kind = {explainer.kind}: this study varies the parts of `features`")
    chosen = [one for one in settings(explainer, steps) if not one.varied or not one.is_default(ctx.params)]
    run_settings(ctx, out, "designs", chosen, images)
    atomic_json(out / "designs.json", facts(ctx) | {"steps": steps, "images": images})
    ctx.say(f"wrote the study to {out}; `dvc exp show` and the MLflow UI list its experiments")


def settings(explainer: FeaturesConfig, steps: int) -> list[Setting]:
    """Every experiment, with the preset itself first in each family."""
    varied: dict[str, dict[str, dict[str, object]]] = {
        "features": {"last level only": {"explainer.levels": [1.0]}},
        "decoder": {
            "one block": {"explainer.depth": 1},
            "half the width": {"explainer.width": explainer.width // 2},
            "twice the width": {"explainer.width": explainer.width * 2},
            "no image": {"explainer.refine_scales": 0},
            "one image scale": {"explainer.refine_scales": 1},
        },
        "training": {
            "predicted class only": {"objective.classes": ["predicted"]},
            "without mosaics": {"train.mosaics": 0},
            "without smoothness": {"objective.smoothness": 0},
            "without averaged weights": {"train.ema": 0},
        },
    }
    preset: dict[str, dict[str, object]] = {"preset": {}}
    return [
        Setting(family, name, changes, {"train.steps": steps})
        for family, others in varied.items()
        for name, changes in (preset | others).items()
    ]
