"""Small images and parameters for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from aha_core.config import DataConfig


def write_image(file: Path, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
    """A noise image (width, height) as PNG or JPEG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(file)
    return file


def data_config(root: Path | str = "", **folder) -> DataConfig:
    settings = {"root": str(root), "val_fraction": 0.25, "max_unreadable": 0.1, "resize": "squash"}
    settings |= {"masks": "", "boxes": "", "void": None} | folder
    return DataConfig.model_validate(
        {
            "source": "folder" if root else "synthetic",
            "image_size": 16,
            "synthetic": {"train": 20, "val": 10, "test": 10},
            "folder": settings,
        }
    )
