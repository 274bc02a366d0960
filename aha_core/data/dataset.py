"""Prepared images as tensors: uint8, at the model's input size, with labels, masks and names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from aha_core.data.decode import decode
from aha_core.data.folder import resolve_root
from aha_core.data.objects import INSIDE, VOID, Objects, find_objects, object_digest
from aha_core.data.prepared import content_digest, read_index, read_manifest
from aha_core.errors import DataError

Augment = Literal["none", "flip", "crop"]
_CROP_AREA = (0.35, 1.0)  # share of the image
_CROP_RATIO = (3 / 4, 4 / 3)  # width / height relative to the image


class PreparedImages:
    """One split of a folder of prepared data.

    Args:
        folder: output of stage `prepare`.
        split: train, val or test.
        augment: what `augmented` does: nothing, horizontal flips, or random resized crops and flips.

    Raises:
        DataError: there is no prepared data, or no image in the split.
    """

    def __init__(self, folder: Path, split: str, augment: Augment = "none") -> None:
        self.folder, self.split, self.augment = folder, split, augment
        self.manifest = read_manifest(folder)
        index = read_index(folder, split)
        self._names, self._digests = index["name"].combine_chunks(), index["digest"].combine_chunks()
        self._rows = index["row"].to_numpy()
        self._sizes = np.stack([index["width"].to_numpy(), index["height"].to_numpy()], axis=1)
        self._known: Any = index["object"].combine_chunks() if "object" in index.column_names else None
        self.labels: Int64[Tensor, " N"] = torch.tensor(index["label"].to_numpy())
        self.image_size: int = self.manifest["image_size"]
        self._root = resolve_root(self.manifest["root"]).resolve() if self.manifest["source"] == "folder" else None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def class_names(self) -> list[str]:
        return list(self.manifest["class_names"])

    def name(self, i: int) -> str:
        """Path below the root, or split/number for synthetic images."""
        return str(self._names[i].as_py())

    def label(self, i: int) -> int:
        """Class index into `class_names`."""
        return int(self.labels[i])

    def image(self, i: int) -> UInt8[Tensor, "3 S S"]:
        """The image at the model's input size, by the manifest's rule, antialiased bilinear.

        Raises DataError naming a file that is gone or has changed since preparation.
        """
        return self._resize(self._source(i))

    def mask(self, i: int) -> Bool[Tensor, "S S"] | None:
        """The labelled object's pixels, from a mask file or boxes by the rule of the image, with nearest neighbours.

        None where there are none, or where nothing of the object is left at the model's input size. Raises DataError
        for a mask or boxes that are gone or have changed since preparation.
        """
        if self._root is None:
            return torch.from_numpy(self._masks[self._rows[i]].astype(bool))
        return self._where(i, INSIDE)

    def void(self, i: int) -> Bool[Tensor, "S S"] | None:
        """The pixels that do not count, or None where there are none; otherwise as `mask`."""
        return self._where(i, VOID)

    def augmented(self, i: int, generator: torch.Generator, side: int | None = None) -> UInt8[Tensor, "3 s s"]:
        """The image under a random change, at the given side or the model's input size.

        All randomness is from the generator.
        """
        image = self._source(i)
        if self.augment == "crop":
            image = _random_crop(image, generator)
        image = self._resize(image, side)
        if self.augment != "none" and torch.rand((), generator=generator) < 0.5:
            image = transforms.horizontal_flip(image)
        return image

    def batch(self, indices: Sequence[int]) -> tuple[UInt8[Tensor, "B 3 S S"], Int64[Tensor, " B"]]:
        """Images and labels."""
        images = torch.stack([self.image(int(i)) for i in indices])
        return images, self.labels[torch.as_tensor(indices, dtype=torch.int64)]

    def _source(self, i: int) -> UInt8[Tensor, "3 H W"]:
        """The image before resizing; for the rule `crop`, its central square."""
        if self._root is None:
            return torch.from_numpy(self._images[self._rows[i]].copy()).permute(2, 0, 1)
        name = self.name(i)
        try:
            data = (self._root / name).read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot read {name} below {self.manifest['root']} ({error.strerror}); "
                "restore it or run `aha prepare` again"
            ) from error
        if content_digest(data) != self._digests[i].as_py():
            raise DataError(f"{name} has changed since preparation; run `aha prepare` again")
        return self._cut(transforms.pil_to_tensor(decode(data, name)))

    def _cut(self, image: UInt8[Tensor, "C H W"]) -> UInt8[Tensor, "C h w"]:
        return transforms.center_crop(image, [min(image.shape[1:])]) if self.manifest["resize"] == "crop" else image

    def _resize(self, image: UInt8[Tensor, "3 H W"], side: int | None = None) -> UInt8[Tensor, "3 s s"]:
        size = [side or self.image_size] * 2
        return image if list(image.shape[1:]) == size else transforms.resize(image, size, antialias=True)

    def _where(self, i: int, value: int) -> Bool[Tensor, "S S"] | None:
        """Where the object's values, brought to the model's input size, are this one; None for nowhere."""
        if self._objects is None:
            return None
        name, (width, height) = self.name(i), self._sizes[i].tolist()
        values = self._objects.read(name, (width, height))
        if object_digest(values) != self._known[i].as_py():
            raise DataError(f"the mask or boxes of {name} have changed since preparation; run `aha prepare` again")
        if values is None:
            return None
        size = [self.image_size] * 2
        found = transforms.resize(self._cut(torch.from_numpy(values)[None]), size, InterpolationMode.NEAREST_EXACT)
        where = found[0] == value
        return where if where.any() else None

    @cached_property
    def _objects(self) -> Objects | None:
        places = self.manifest.get("objects")
        return find_objects(places["masks"], places["boxes"], places["void"]) if places else None

    @cached_property
    def _images(self) -> UInt8[np.ndarray, "N S S 3"]:
        return self._array("images.npy")

    @cached_property
    def _masks(self) -> UInt8[np.ndarray, "N S S"]:
        return self._array("masks.npy")

    def _array(self, name: str) -> np.ndarray:
        try:
            return np.load(self.folder / name, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder / name} is missing or damaged; run `aha prepare` again") from error

    def __getstate__(self) -> dict[str, Any]:
        """Workers open the arrays themselves: pickling a memory map would copy it."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_images", "_masks", "_objects")}


def _random_crop(image: UInt8[Tensor, "3 H W"], generator: torch.Generator) -> UInt8[Tensor, "3 h w"]:
    """A window of random area, aspect ratio and place."""
    height, width = image.shape[1:]
    draws = torch.rand(4, generator=generator).tolist()
    area = _CROP_AREA[0] + (_CROP_AREA[1] - _CROP_AREA[0]) * draws[0]
    ratio = _CROP_RATIO[0] * (_CROP_RATIO[1] / _CROP_RATIO[0]) ** draws[1]
    h = max(1, round(min(1.0, (area / ratio) ** 0.5) * height))
    w = max(1, round(min(1.0, (area * ratio) ** 0.5) * width))
    top, left = round(draws[2] * (height - h)), round(draws[3] * (width - w))
    return transforms.crop(image, top, left, h, w)
