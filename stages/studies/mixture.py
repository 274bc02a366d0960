"""`aha study mixture`: real images of several kinds as one folder of ImageNet classes, by links.

    OUT/train/WNID/…    imagenet1k_sample without the held-out images, imagenette224/train, every fourth image of
                        tiny_imagenet64, and voc_animals_extra under the class that the target predicts
    OUT/val/WNID/…      the 300 held-out images of imagenet1k_sample: places 0, 3 and 6 of every ten, in order of name

The pretrained explainer learns on train/ and is scored on val/ (docs/pretrained.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision.transforms.v2.functional as transforms
from PIL import Image, ImageOps
from timm.data import ImageNetInfo

from aha_core.data.decode import read_image
from aha_core.errors import DataError
from stages.context import Context
from stages.outputs import rebuild
from stages.target import existing

HELD_OUT = (0, 3, 6)
EVERY_TINY = 4  # images of 64 px: more of them would outweigh the others
ImageOfClass = tuple[str, Path]


def run(ctx: Context, source: Path, out: Path) -> None:
    """Write OUT whole or not at all. Raises DataError when a folder of the source is missing or empty."""
    sample = [(file.name.split("_")[0], file) for file in _files(source / "imagenet1k_sample/images")]
    parts = {
        "train": [
            *(one for place, one in enumerate(sample) if place % 10 not in HELD_OUT),
            *((file.parent.name, file) for file in _files(source / "imagenette224/train")),
            *((file.parent.name, file) for file in _files(source / "tiny_imagenet64")[::EVERY_TINY]),
            *_predicted(ctx, _files(source / "voc_animals_extra")),
        ],
        "val": [one for place, one in enumerate(sample) if place % 10 in HELD_OUT],
    }
    with rebuild(out) as folder:
        for part, images in parts.items():
            for wnid, file in images:
                link = folder / part / wnid / f"{file.parent.parent.name}-{file.name}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file.resolve())
    ctx.say(f"linked {len(parts['train'])} training and {len(parts['val'])} held-out images into {out}")


def _files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in {".jpeg", ".jpg"})
    if not files:
        raise DataError(f"no images in {folder}; give --source the folder that docs/pretrained.md describes")
    return files


def _predicted(ctx: Context, files: list[Path]) -> Iterator[ImageOfClass]:
    """Unlabelled images under the class that the target predicts for their central square."""
    wnids = ImageNetInfo().label_names()
    target = existing(ctx.params, wnids)
    side = target.image_size
    for file in files:
        image = ImageOps.fit(read_image(file), (side, side), Image.Resampling.BILINEAR)
        with torch.no_grad():
            logits = target(transforms.to_image(image)[None].float() / 255)
        yield wnids[int(logits.argmax())], file
