"""Stage `prepare`: from the data parameters to a folder of prepared data (see `aha_core.data.prepared`)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from aha_core.config import DataConfig
from aha_core.data.folder import (
    Skipped,
    class_names,
    find_classes,
    refuse_if_too_many,
    resolve_root,
    split_rows,
    verify,
)
from aha_core.data.objects import find_objects, with_objects
from aha_core.data.prepared import SPLITS, Progress, Row, content_digest, silent, write_prepared
from aha_core.data.synthetic import CLASS_NAMES, draw
from aha_core.files import array_writer


def prepare_synthetic(config: DataConfig, seed: int, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Draw all images and masks into images.npy and masks.npy.

    Args:
        config: section `data`.
        seed: seed of the drawings.
        out: folder to write.
        progress: display of the loop.

    Returns:
        The manifest.
    """
    size = config.image_size
    counts = {split: getattr(config.synthetic, split) for split in SPLITS}
    places = [(split, index) for split in SPLITS for index in range(counts[split])]
    rows = []
    with (
        array_writer(out / "images.npy", (len(places), size, size, 3), np.uint8) as add_image,
        array_writer(out / "masks.npy", (len(places), size, size), np.uint8) as add_mask,
    ):
        for row, (split, index) in enumerate((progress or silent)(places, len(places), "drawing images")):
            image, mask, label = draw(seed, split, index, size)
            add_image(image)
            add_mask(mask)
            digest = content_digest(image.tobytes() + mask.tobytes())
            rows.append(Row(split, f"{split}/{index:05d}", row, label, size, size, image.nbytes, digest))
    facts = {
        "source": "synthetic", "image_size": size, "class_names": CLASS_NAMES, "resize": "squash", "root": None,
        "skipped": [],
    }  # fmt: skip
    return write_prepared(out, rows, facts)


def prepare_folder(
    config: DataConfig, seed: int, out: Path, progress: Progress | None = None, threads: int = 1
) -> dict[str, Any]:
    """Index the images of class folders, with their masks or boxes; all files stay where they are.

    Args:
        config: section `data`.
        seed: seed of the split.
        out: folder to write.
        progress: display of the loop that decodes every file once.
        threads: files decoded at the same time.

    Returns:
        The manifest.

    Raises:
        DataError: unusable folder, too many unreadable files, or too few images (see `aha_core.data.folder`); masks
            or boxes that do not fit the images (see `aha_core.data.objects`).
    """
    places = config.folder.model_dump(include={"masks", "boxes", "void"})
    objects = find_objects(**places)
    root = resolve_root(config.folder.root)
    found = find_classes(root)
    names = sorted(name for classes in found.values() for files in classes.values() for name in files)
    if objects:
        objects.check(names)
    checked = verify(root, names, threads, progress or silent)
    skipped = [one for one in checked if isinstance(one, Skipped)]
    refuse_if_too_many(skipped, len(names), config.folder.max_unreadable)
    good = {one.name: one for one in checked if isinstance(one, Row)}
    rows = split_rows(found, good, config.folder, seed)
    facts = {
        "source": "folder", "image_size": config.image_size, "class_names": class_names(found),
        "resize": config.folder.resize, "root": config.folder.root, "skipped": [asdict(one) for one in skipped],
    }  # fmt: skip
    if objects:
        rows = with_objects(objects, rows, threads, progress or silent)
        facts["objects"] = places | {"images": sum(row.object != "" for row in rows)}
    return write_prepared(out, rows, facts)
