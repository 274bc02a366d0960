"""The logged model: MLflow calls `_load_pyfunc` with the folder that was logged (explainer/ and target/).

A request is a table with one row per image:

    image   base64 text of an image file, or an array (3, S, S) in [0, 1] as `Explainer.attribute` takes it
    class   name or index of the class to explain; the predicted one where it is missing or empty

and the answer one record per row: class, index, probability, map (S × S, larger = more important), overlay (base64 of
a PNG); or error, for a row that cannot be explained, which does not spoil the others. Parameter: steps of refinement.
"""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from aha_core.attribution import Explainer
from aha_core.class_names import class_index
from aha_core.data.decode import bombs_are_errors, decode
from aha_core.errors import AhaError, DataError
from aha_core.figures.overlay import overlay

Record = dict[str, Any]


class ExplainerModel:
    """`predict` of the logged model; see the module."""

    def __init__(self, explainer: Explainer) -> None:
        self.explainer = explainer

    def predict(self, requests: pd.DataFrame, params: dict[str, Any] | None = None) -> list[Record]:
        """One record for each row; rows are explained one by one, so memory does not grow with their number."""
        steps = int((params or {}).get("steps", 0))
        answers = []
        with bombs_are_errors():
            for row in requests.to_dict("records"):
                try:
                    answers.append(self.explain(row["image"], row.get("class"), steps))
                except AhaError as error:
                    answers.append({"error": str(error)})
        return answers

    @torch.no_grad()
    def explain(self, image: Any, wanted: Any, steps: int) -> Record:
        """Raises AhaError for an image that cannot be read or a class that the target does not have."""
        target = self.explainer.target
        x = read_input(image, target.image_size).to(self.explainer.device)
        if isinstance(wanted, float) and wanted.is_integer():  # pandas makes floats of a column with missing values
            wanted = int(wanted)
        chosen = (
            None if wanted is None or wanted != wanted or wanted == "" else class_index(str(wanted), target, "class")
        )
        probabilities = target.probabilities(x)[0]
        index = int(probabilities.argmax()) if chosen is None else chosen
        scores = self.explainer.attribute(x, index, steps)[0, 0].cpu().numpy()
        shown = (x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        return {
            "class": target.class_names[index],
            "index": index,
            "probability": float(probabilities[index]),
            "map": scores.tolist(),
            "overlay": _base64_png(overlay(shown, scores)),
        }


def read_input(image: Any, side: int) -> Float[Tensor, "1 3 S S"]:
    """Base64 text of a file, or an array in [0, 1], as the explainer's input. Raises DataError for anything else."""
    if isinstance(image, str):
        try:
            data = base64.b64decode(image.partition("base64,")[2] or image, validate=True)
        except (binascii.Error, ValueError):
            raise DataError("image: neither base64 text of an image file nor an array") from None
        pixels = transforms.pil_to_tensor(decode(data, "image"))
        return transforms.resize(pixels, [side, side], antialias=True)[None].float() / 255
    try:
        values = np.asarray(image, dtype=np.float32)
    except (TypeError, ValueError):
        values = np.empty(0, np.float32)
    if values.shape != (3, side, side):
        raise DataError(f"image: expected base64 text, or an array (3, {side}, {side}) in [0, 1], got {values.shape}")
    return torch.from_numpy(values)[None]


def _base64_png(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _load_pyfunc(data_path: str) -> ExplainerModel:
    folder = Path(data_path)
    return ExplainerModel(Explainer.load(folder / "explainer", folder / "target"))
