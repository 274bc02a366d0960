"""The format of prepared data: a folder with manifest.json and index.parquet, and arrays for synthetic images.

`manifest.json` holds the facts, `index.parquet` one row per image in the order of the splits. Images of source
`folder` stay where they are; the index knows their sizes and content digests, so later changes are noticed. All
bytes depend on the data and the parameters alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from aha_core.errors import DataError
from aha_core.files import atomic_json, atomic_path

T = TypeVar("T")
SPLITS: tuple[str, ...] = ("train", "val", "test")


@runtime_checkable
class Progress(Protocol):
    """Shows the progress of a loop; always called in the calling thread."""

    def __call__(self, iterable: Iterable[T], total: int, description: str) -> Iterable[T]: ...


def silent(iterable: Iterable[T], total: int, description: str) -> Iterable[T]:
    """The progress display that shows nothing."""
    return iterable


@dataclass(frozen=True)
class Row:
    """One image of the index.

    split: train, val or test; name: path below the root, or split/number; row: place in images.npy, -1 for files;
    label: class index; width, height: pixels before resizing, upright; bytes: file size; digest: `content_digest`;
    object: that of the object's pixels from a mask file or boxes, empty where there are none.
    """

    split: str
    name: str
    row: int
    label: int
    width: int
    height: int
    bytes: int
    digest: str
    object: str = ""


def content_digest(data: bytes) -> str:
    """The first 64 bits of SHA-256, in hexadecimal: notices changes, is no protection against forgery."""
    return hashlib.sha256(data).hexdigest()[:16]


def write_prepared(out: Path, rows: list[Row], facts: dict[str, Any]) -> dict[str, Any]:
    """Write index and manifest.

    Args:
        out: folder of the prepared data.
        rows: the images in the order of the splits.
        facts: source, image_size, class_names, resize, root, skipped and, for files with masks or boxes, objects.

    Returns:
        The manifest.
    """
    names, size = facts["class_names"], facts["image_size"]
    counted = Counter((row.split, row.label) for row in rows)
    lines = "\n".join(
        sorted(f"{row.split} {row.name} {row.label} {row.bytes} {row.digest} {row.object}".rstrip() for row in rows)
    )
    manifest = facts | {
        "images": {split: sum(row.split == split for row in rows) for split in SPLITS},
        "counts": {split: {name: counted[split, label] for label, name in enumerate(names)} for split in SPLITS},
        "enlarged": sum(min(row.width, row.height) < size for row in rows),
        "digest": hashlib.sha256(lines.encode()).hexdigest(),
    }
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Row)}
    with atomic_path(out / "index.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
    atomic_json(out / "manifest.json", manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The facts of prepared data. Raises DataError when there are none."""
    file = folder / "manifest.json"
    if not file.is_file():
        raise DataError(f"no prepared data in {folder}; run `aha prepare`")
    manifest: dict[str, Any] = json.loads(file.read_text())
    return manifest


def read_index(folder: Path, split: str) -> pa.Table:
    """The rows of one split, one column per field of `Row`.

    Raises DataError when there is no index, the split is unknown or it has no images.
    """
    file = folder / "index.parquet"
    if not file.is_file():
        raise DataError(f"no prepared data in {folder}; run `aha prepare`")
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; one of {', '.join(SPLITS)}")
    table = pq.read_table(file, filters=[("split", "=", split)])
    if not table.num_rows:
        raise DataError(
            f"split {split} of {folder} has no images; raise data.folder.val_fraction and run `aha prepare`"
        )
    return table
