"""Maps of another tool: a folder with `manifest.csv` and one file per map, or one archive for all of them.

    image,file,key,class
    class_3/0007.jpg,maps/0007.npy,,
    class_3/0008.jpg,all.npz,map_8,tench

image   name of the image in the prepared split, as `scores.parquet` has it
file    below the folder: .npy or .npz (any real number type), .png (8 or 16 bit grey; value = importance)
key     array of the archive; may be empty for an archive of one
class   explained class, name or index; the predicted one where empty (columns key and class may be absent)

A map is H x W (or 1 x H x W, H x W x 1) at the target's input size. Its scale is free, larger is more important. All
problems are found before anything is scored. Archives are read without pickle.
"""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from aha_core.errors import AttributionError

COLUMNS = ("image", "file", "key", "class")
SHOWN = 5  # problems in one message


@dataclass(frozen=True)
class Entry:
    """One line of a manifest; class_name is empty for the predicted class."""

    image: str
    file: Path
    key: str
    class_name: str


def read_manifest(folder: Path) -> list[Entry]:
    """The entries of manifest.csv.

    Raises AttributionError for a missing or empty manifest, missing or unknown columns, a file that is outside the
    folder or not there, and an image that is listed twice.
    """
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        raise AttributionError(f"no manifest.csv in {folder}; write one with the columns {', '.join(COLUMNS)}")
    with manifest.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or []
        if not {"image", "file"} <= set(columns) <= set(COLUMNS):
            raise AttributionError(
                f"manifest.csv has the columns {', '.join(columns) or 'none'}; needed: image, file; allowed: key, class"
            )
        rows = [{name: (value or "").strip() for name, value in row.items() if name in COLUMNS} for row in reader]
    if not rows:
        raise AttributionError(f"{manifest} lists no map")
    problems, seen = [], set()
    for line, row in enumerate(rows, start=2):
        if row["image"] in seen:
            problems.append(f"line {line}: image {row['image']!r} is listed twice")
        seen.add(row["image"])
        path = folder / row["file"]
        if not path.resolve().is_relative_to(folder.resolve()):
            problems.append(f"line {line}: {row['file']} lies outside the folder")
        elif not path.is_file():
            problems.append(f"line {line}: no file {row['file']}")
    _refuse(problems, "manifest.csv")
    return [Entry(row["image"], folder / row["file"], row.get("key", ""), row.get("class", "")) for row in rows]


def check_maps(entries: list[Entry], size: tuple[int, int]) -> None:
    """Read every map once and keep none.

    Raises AttributionError naming the unusable files: unreadable, another size, colour, NaN or infinite values.
    """
    problems = []
    for entry in entries:
        try:
            _checked(_load(entry), size)
        except _Unusable as reason:
            problems.append(f"{entry.file.name}{f' [{entry.key}]' if entry.key else ''} for {entry.image}: {reason}")
    _refuse(problems, "the maps")


def read_maps(entries: list[Entry], size: tuple[int, int]) -> Float[Tensor, "B 1 H W"]:
    """These maps, which `check_maps` accepted: float32 (float64 where a file has it)."""
    return torch.stack([_checked(_load(entry), size) for entry in entries])


class _Unusable(Exception):
    """Why one file is no map."""


def _load(entry: Entry) -> np.ndarray:
    suffix = entry.file.suffix.lower()
    try:
        if suffix == ".png":
            with Image.open(entry.file) as image:
                if len(image.getbands()) != 1 or image.mode == "P":
                    raise _Unusable(
                        f"a {image.mode} picture; a map has one grey channel, colour maps are pictures of maps"
                    )
                return np.asarray(image, dtype=np.float32)
        if suffix == ".npy":
            return np.load(entry.file, allow_pickle=False)
        if suffix == ".npz":
            with entry.file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                names = list(archive)
                if not entry.key and len(names) == 1:
                    return archive[names[0]]
                if entry.key not in names:
                    raise _Unusable(f"no array {entry.key!r}; the archive has {', '.join(names[:SHOWN])}")
                return archive[entry.key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, UnidentifiedImageError) as error:
        raise _Unusable(f"cannot be read ({str(error).splitlines()[0]})") from error
    raise _Unusable(f"unknown type {suffix!r}; expected .npy, .npz or .png")


def _checked(array: np.ndarray, size: tuple[int, int]) -> Float[Tensor, "1 H W"]:
    if array.dtype.kind not in "fiub":
        raise _Unusable(f"values of type {array.dtype}; expected real numbers")
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.shape != size:
        hint = "sum or average the channels first" if array.ndim == 3 else "enlarge it with your tool's interpolation"
        raise _Unusable(f"shape {array.shape} instead of {size}; {hint}")
    values = array.astype(np.float64 if array.dtype.itemsize > 4 else np.float32)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise _Unusable(f"{bad} of {values.size} values are NaN or infinite")
    return torch.from_numpy(values)[None]


def _refuse(problems: list[str], what: str) -> None:
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise AttributionError(f"{what}: {'; '.join(problems[:SHOWN])}{more}")
