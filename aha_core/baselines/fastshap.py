"""FastSHAP: a network trained to say the Shapley values of an image's cells in one pass (`aha_core.fastshap`).

    map = phi made efficient with the game of this image and the evaluation's reference, one value per cell

The network is AHA's, trained as long and on as many masked images, by `aha fastshap`; only its loss differs. It is no
property of the target, so without its files the method is left out.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.base import Baseline, BaselineSettings, BaselineSpec, class_scores
from aha_core.explainer.model import explain
from aha_core.explainer.storage import load_explainer
from aha_core.shapley import cell_values, efficient
from aha_core.targets import Target


def needs_training(settings: BaselineSettings) -> str | None:
    """Reason why there is no network, or None."""
    if settings.fastshap is not None and (settings.fastshap / "explainer.json").is_file():
        return None
    return "is a network of its own, which is not trained; set fastshap.train: true and run `aha fastshap`"


class FastShap(Baseline):
    """Shapley values of cells, amortised. Raises AttributionError for files that do not fit the target."""

    def __init__(self, target: Target, settings: BaselineSettings) -> None:
        super().__init__(target, settings)
        folder = settings.fastshap or Path()
        network, self.training = load_explainer(folder, target)
        self.network = network.to(target.mean.device).eval().requires_grad_(False)
        self.grid = int(json.loads((folder / "fastshap.json").read_text())["grid"])

    @torch.no_grad()
    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 h w"]:
        features = self.target.features(x, self.training.explainer.levels)
        phi = cell_values(explain(self.network, self.target, x, features, classes), self.grid)
        full = class_scores(features.logits.float().softmax(dim=1), classes)
        none = class_scores(self.target.probabilities(self.settings.reference(x)), classes)
        return efficient(phi, none, full).unflatten(1, (1, self.grid, self.grid))


SPEC = BaselineSpec(
    "fastshap",
    "Shapley values of cells by a trained network (`aha fastshap`)",
    FastShap,
    passes="2",
    ready=needs_training,
)
