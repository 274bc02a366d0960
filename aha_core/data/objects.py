"""Where the objects are in the images of class folders: a mask file for each image, or a table of boxes.

    masks   an image file of one channel at the image's path below the mask folder, with any ending (images that differ
            in the ending alone share it); 0 is outside, the void value does not count, every other value is the object
    boxes   rows image,x0,y0,x1,y1 of a CSV file: columns x0 .. x1 - 1 and rows y0 .. y1 - 1; an image's are joined

Both are at the upright image's size before resizing. An image may have neither.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from aha_core.data.decode import bombs_are_errors, decode_values, image_extensions
from aha_core.data.folder import absolute_path
from aha_core.data.prepared import Progress, Row, content_digest
from aha_core.errors import DataError

OUTSIDE, INSIDE, VOID = 0, 1, 2
COLUMNS = ("image", "x0", "y0", "x1", "y1")
Box = tuple[int, int, int, int]


@runtime_checkable
class Objects(Protocol):
    """The objects of a folder of images."""

    def check(self, names: Sequence[str]) -> None:
        """Raises DataError when these images, all that there are, and the objects do not belong together."""
        ...

    def read(self, name: str, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"] | None:
        """OUTSIDE, INSIDE or VOID at each pixel of an image of this width and height; None where nothing is known.

        Raises DataError for a file or a row that does not fit the image, with the remedy.
        """
        ...


def find_objects(masks: str, boxes: str, void: int | None) -> Objects | None:
    """What the parameters data.folder.masks, boxes and void name; None where both paths are empty.

    Raises DataError for a path that is relative or not there, and for an unusable table.
    """
    if masks:
        folder = absolute_path(masks, "data.folder.masks")
        if not folder.is_dir():
            raise DataError(f"data.folder.masks = {masks!r}: no folder {folder}; correct the path or the variable")
        return MaskFolder(folder, void)
    if boxes:
        file = absolute_path(boxes, "data.folder.boxes")
        if not file.is_file():
            raise DataError(f"data.folder.boxes = {boxes!r}: no file {file}; correct the path or the variable")
        return BoxTable(file)
    return None


class MaskFolder:
    """One mask file per image.

    Args:
        folder: of the masks.
        void: value of the pixels that do not count.
    """

    def __init__(self, folder: Path, void: int | None) -> None:
        self.folder, self.void = folder, void
        self._listed: dict[PurePosixPath, dict[str, list[str]]] = {}

    def check(self, names: Sequence[str]) -> None:
        """Raises DataError when no image has a mask."""
        if not any(self._file(name) for name in names):
            expected = self.folder / PurePosixPath(names[0]).with_suffix(".png")
            raise DataError(
                f"no image has a mask below {self.folder}, where {expected} would be that of {names[0]}; "
                "correct the folder of masks (data.folder.masks), or leave it out"
            )

    def read(self, name: str, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"] | None:
        """See `Objects`."""
        file = self._file(name)
        if file is None:
            return None
        try:
            stored = decode_values(file.read_bytes(), f"mask {file}")
        except OSError as error:
            raise DataError(f"cannot read mask {file} ({error.strerror}); restore or remove it") from error
        except DataError as error:
            raise DataError(f"{error}; replace or remove this mask") from error
        if stored.shape != size[::-1]:
            raise DataError(
                f"mask {file} has {stored.shape[1]} x {stored.shape[0]} pixels, its image {name} has {size[0]} x "
                f"{size[1]}; save the mask at the size of the image, or remove it"
            )
        values = np.where(stored != 0, np.uint8(INSIDE), np.uint8(OUTSIDE))
        if self.void is not None:
            values[stored == self.void] = VOID
        return values

    def _file(self, name: str) -> Path | None:
        path = PurePosixPath(name)
        if path.parent not in self._listed:
            self._listed[path.parent] = _images_by_stem(self.folder / path.parent)
        found = self._listed[path.parent].get(path.stem, [])
        if len(found) > 1:
            raise DataError(
                f"{name} has several masks in {self.folder / path.parent}: {', '.join(found)}; keep one of them"
            )
        return self.folder / path.parent / found[0] if found else None


def _images_by_stem(folder: Path) -> dict[str, list[str]]:
    """Names of the image files of a folder, by the name without its ending; nothing where there is no folder."""
    endings = image_extensions()
    found: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if file.suffix.lower() in endings:
            found.setdefault(file.stem, []).append(file.name)
    return found


class BoxTable:
    """Boxes of a CSV file.

    Raises DataError naming the line of a row that is not of four whole numbers.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._boxes: dict[str, list[tuple[int, Box]]] = {}  # with their lines
        try:
            lines = csv.DictReader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
            missing = [name for name in COLUMNS if name not in (lines.fieldnames or ())]
            if missing:
                raise DataError(f"{file}: no column {', '.join(missing)}; the first line must name {','.join(COLUMNS)}")
            for row in lines:
                self._boxes.setdefault(row["image"], []).append((lines.line_num, self._box(row, lines.line_num)))
        except OSError as error:
            raise DataError(
                f"cannot read {file} ({error.strerror}); restore it, or leave the boxes out (data.folder.boxes)"
            ) from error
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{file} is no CSV file in UTF-8 ({error}); save it as one") from error

    def check(self, names: Sequence[str]) -> None:
        """Raises DataError for a row of an unknown image, and for a table without rows."""
        if not self._boxes:
            raise DataError(f"{self.file} has no boxes; add rows, or leave it out (data.folder.boxes)")
        known = set(names)
        for name, own in self._boxes.items():
            if name not in known:
                raise DataError(
                    f"{self.file}, line {own[0][0]}: no image {name!r} in the folder of images; names look like "
                    f"{names[0]}; correct or remove the line"
                )

    def read(self, name: str, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"] | None:
        """See `Objects`."""
        if name not in self._boxes:
            return None
        width, height = size
        values = np.full((height, width), OUTSIDE, np.uint8)
        for line, (x0, y0, x1, y1) in self._boxes[name]:
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                raise DataError(
                    f"{self.file}, line {line}: box {x0},{y0},{x1},{y1} of {name}; expected 0 <= x0 < x1 <= {width} "
                    f"and 0 <= y0 < y1 <= {height}, the upright image's size; correct or remove the line"
                )
            values[y0:y1, x0:x1] = INSIDE
        return values

    def _box(self, row: dict[str, str], line: int) -> Box:
        try:
            x0, y0, x1, y1 = (int(row[name]) for name in COLUMNS[1:])
        except (TypeError, ValueError):
            given = ",".join(row[name] or "" for name in COLUMNS)
            raise DataError(
                f"{self.file}, line {line}: {given}; expected a name and four whole numbers of pixels; correct or "
                "remove the line"
            ) from None
        return x0, y0, x1, y1


def with_objects(objects: Objects, rows: list[Row], threads: int, progress: Progress) -> list[Row]:
    """The rows with the digests of their objects, for which every mask and box is read. Raises DataError as `read`."""

    def digested(row: Row) -> Row:
        return replace(row, object=object_digest(objects.read(row.name, (row.width, row.height))))

    with bombs_are_errors(), ThreadPoolExecutor(threads) as pool:
        return list(progress(pool.map(digested, rows), len(rows), "checking masks"))


def object_digest(values: UInt8[np.ndarray, "H W"] | None) -> str:
    """`content_digest` of the pixels, empty for None."""
    return "" if values is None else content_digest(values.tobytes())
