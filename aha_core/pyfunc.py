"""Loader of the logged model: MLflow calls `_load_pyfunc` with the folder that was logged (explainer/ and target/)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from aha_core.attribution import Explainer


class ExplainerModel:
    """`predict`: images [B 3 H W] float32 in [0, 1] to maps [B 1 H W] of the predicted classes."""

    def __init__(self, explainer: Explainer) -> None:
        self.explainer = explainer

    def predict(self, images: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        maps: np.ndarray = self.explainer.attribute(torch.from_numpy(np.asarray(images, np.float32))).numpy()
        return maps


def _load_pyfunc(data_path: str) -> ExplainerModel:
    folder = Path(data_path)
    return ExplainerModel(Explainer.load(folder / "explainer", folder / "target"))
