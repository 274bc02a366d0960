"""What `aha explain` reads and writes for one image: its options, the decoded photo, the pictures and the JSON.

NAME_overlay.jpg, NAME_heat.png, NAME_cutout.webp, NAME_map.npy and NAME.json; for the k-th class the same with _k.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from aha_core.data.decode import decode
from aha_core.errors import DataError
from aha_core.figures.contact_sheet import thumbnail
from aha_core.figures.single import pictures, shown_size
from aha_core.files import atomic_json, atomic_path

JPEG: dict[str, Any] = {"quality": 92, "subsampling": 0}  # a sixth of the time and size of PNG for photographs
WEBP: dict[str, Any] = {"quality": 85, "method": 0}  # transparent like PNG, in half the time, a quarter of the size
PNG: dict[str, Any] = {"compress_level": 1, "compress_type": 3}  # run lengths: half the time of the default strategy


@dataclass(frozen=True)
class Request:
    """The options of the command. scores: None = where there are few images; passes: None = as hybrid and steps say."""

    images: list[str]
    out: Path
    class_: str | None = None
    against: str | None = None
    hybrid: bool = False
    steps: int = 0
    passes: int | None = None
    explainer: str | None = None
    target: str | None = None
    weights: Path | None = None
    keep: float = 0.2
    scores: bool | None = None
    show: bool = False


@dataclass(frozen=True)
class Photo:
    """One decoded file: the classifier's input, the picture that is shown, the size of the original."""

    x: UInt8[Tensor, "3 S S"]
    shown: UInt8[np.ndarray, "H W 3"]
    width: int
    height: int


@dataclass(frozen=True)
class Explained:
    """One class of one image; `map` at the classifier's input size."""

    facts: dict[str, Any]
    map: Float[np.ndarray, "S S"]


def read_photo(file: Path, side: int) -> Photo:
    """Raises DataError for a file that is missing or no image."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read, {error.strerror or error}") from error
    image = decode(data, str(file))
    x = transforms.resize(transforms.pil_to_tensor(image), [side, side], antialias=True)
    return Photo(x, np.asarray(shown_size(image)), *image.size)


def write(
    request: Request, name: str, file: Path, photo: Photo, explained: list[Explained], target: str
) -> UInt8[np.ndarray, "H W 3"]:
    """All files of one image; returns the first class's overlay as a contact sheet shows it."""
    classes = []
    for rank, own in enumerate(explained, start=1):
        made = pictures(photo.shown, own.map, request.keep, contrast=request.against is not None)
        files = {kind: f"{name}{ending}" for kind, ending in _kinds(rank).items()}
        with atomic_path(request.out / files["overlay"]) as temporary:
            Image.fromarray(made.overlay).save(temporary, **JPEG)
        with atomic_path(request.out / files["heat"]) as temporary:
            made.heat.save(temporary, **PNG)
        with atomic_path(request.out / files["cutout"]) as temporary:
            made.cutout.save(temporary, **WEBP)
        with atomic_path(request.out / files["map"]) as temporary:
            np.save(temporary, own.map)
        if rank == 1:
            small = thumbnail(made.overlay)
        classes.append(own.facts | {"files": files})
    facts = {"file": str(file), "width": photo.width, "height": photo.height, "target": target}
    facts |= {"hybrid": request.hybrid, "steps": request.steps}
    atomic_json(request.out / f"{name}.json", facts | {"cutout_share": request.keep, "classes": classes})
    return small


def endings(classes: int) -> list[str]:
    """Of everything that `write` writes for one image."""
    return [".json", *(ending for rank in range(1, classes + 1) for ending in _kinds(rank).values())]


def _kinds(rank: int) -> dict[str, str]:
    """Endings of the k-th class's files."""
    suffix = "" if rank == 1 else f"_{rank}"
    kinds = {"overlay": ".jpg", "heat": ".png", "cutout": ".webp", "map": ".npy"}
    return {kind: f"_{kind}{suffix}{ending}" for kind, ending in kinds.items()}
