"""Class folders on disk to an index: find, verify by decoding, split.

Two layouts. With train/ and val/ below the root: `val` is a slice of train/ held out for choosing the target,
`test` is val/. With class folders alone: every class is cut into train, val and test. The cut depends on the seed and
the file names only, not on the order in which a disk lists them.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from aha_core.config import FolderConfig, expand_path
from aha_core.data.decode import bombs_are_errors, decode, image_extensions
from aha_core.data.prepared import Progress, Row, content_digest
from aha_core.errors import DataError

_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
Classes = dict[str, list[str]]


@dataclass(frozen=True)
class Skipped:
    """A file that cannot be decoded, and why."""

    name: str
    reason: str


def resolve_root(spec: str) -> Path:
    """The image folder. Raises DataError when it is not set or not there, ConfigError for an unset variable."""
    if not spec:
        raise DataError("data.folder.root is empty; set it to a folder of class folders, or use data.source: synthetic")
    root = absolute_path(spec, "data.folder.root")
    if not root.is_dir():
        raise DataError(f"data.folder.root = {spec!r}: no folder {root}; correct the path or the variable")
    return root


def absolute_path(spec: str, parameter: str) -> Path:
    """A path parameter, expanded. Raises DataError for a relative one, ConfigError for an unset variable."""
    path = expand_path(spec, parameter)
    if not path.is_absolute():  # workers and temporary copies of experiments have other working directories
        raise DataError(f"{parameter} = {spec!r}: expected an absolute path, $VARIABLE/… or ~/…")
    return path


def find_classes(root: Path) -> dict[str, Classes]:
    """File names below the root, by part ("train" and "val", or "") and class, everything sorted.

    Raises DataError for a layout that is neither of the two, for fewer than two classes and for a class without images.
    """
    folders = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    split_names = sorted(name for name in folders if name.lower() in _SPLIT_NAMES)
    if split_names and not {"train", "val"} <= folders:
        raise DataError(
            f"{root} has {', '.join(split_names)} but not both train and val; name the folders train and val, "
            "or point data.folder.root at the class folders"
        )
    parts = ("train", "val") if split_names else ("",)
    found = {part: _class_files(root, part) for part in parts}
    if len(found[parts[0]]) < 2:
        only = next(iter(found[parts[0]]))
        raise DataError(f"one class only ({only}) in {root / parts[0]}; a classifier needs at least two class folders")
    return found


def class_names(found: dict[str, Classes]) -> list[str]:
    """Every class, sorted; one of val/ alone can be tested, but not learnt."""
    return sorted({name for classes in found.values() for name in classes})


def _class_files(root: Path, part: str) -> Classes:
    base = root / part
    names = sorted(path.name for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise DataError(f"no class folders in {base}; expected one folder of images per class")
    classes = {name: _image_files(base / name, root) for name in names}
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise DataError(f"no images in class folder {base / empty[0]}; add images or remove the folder")
    return classes


def _image_files(folder: Path, root: Path) -> list[str]:
    """Images in a folder and below it, as sorted paths relative to the root; hidden files are ignored."""
    endings, found = image_extensions(), []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(place) / name).relative_to(root).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in endings
        ]
    return sorted(found)


def verify(root: Path, names: list[str], threads: int, progress: Progress) -> list[Row | Skipped]:
    """Decode every file in full; a row (split and label still open) or the reason why it cannot be read."""

    def check(name: str) -> Row | Skipped:
        shown = name.encode(errors="replace").decode()
        if shown != name:  # the name's bytes are of another encoding, which no index or page can hold
            return Skipped(shown, "the file's name is not UTF-8; rename it")
        try:
            data = (root / name).read_bytes()
            width, height = decode(data, name).size
        except (DataError, OSError) as error:
            return Skipped(name, str(error).removeprefix(f"{name}: ").replace(str(root), "<root>"))
        return Row("", name, -1, -1, width, height, len(data), content_digest(data))

    with bombs_are_errors(), ThreadPoolExecutor(threads) as pool:
        return list(progress(pool.map(check, names), len(names), "checking images"))


def refuse_if_too_many(skipped: list[Skipped], total: int, allowed: float) -> None:
    """Raises DataError naming the first unreadable files when their share is over the limit."""
    if len(skipped) > allowed * total:
        listing = "\n".join(f"  {one.name}: {one.reason}" for one in skipped[:5])
        more = f"\n  … and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        raise DataError(
            f"{len(skipped)} of {total} images cannot be read, allowed are {allowed:.2%} "
            f"(data.folder.max_unreadable):\n{listing}{more}\n"
            "replace or remove these files, or raise data.folder.max_unreadable"
        )


def split_rows(found: dict[str, Classes], good: dict[str, Row], config: FolderConfig, seed: int) -> list[Row]:
    """Assign split and label to the readable images; rows in the order train, val, test, then label and name.

    Raises DataError for a fraction outside the layout's range and for classes with too few images.
    """
    fraction, flat = config.val_fraction, "" in found
    if flat and not 0 < fraction < 0.5:
        raise DataError(
            f"data.folder.val_fraction = {fraction}: without train/ and val/ folders, val and test get this share "
            "each; choose a value above 0 and below 0.5"
        )
    if fraction == 1:
        raise DataError("data.folder.val_fraction = 1.0 leaves no training images; choose a smaller value")
    rows: list[Row] = []
    for label, name in enumerate(class_names(found)):
        files = [file for file in found["" if flat else "train"].get(name, []) if file in good]
        held = max(1, round(fraction * len(files))) if fraction and files else 0
        shares = {"val": held, "test": held if flat else 0}
        if len(files) <= sum(shares.values()) and (flat or name in found["train"]):
            raise DataError(
                f"class {name} has {len(files)} readable images, needs at least {sum(shares.values()) + 1} to be "
                "split; add images, remove the folder, or lower data.folder.val_fraction"
            )
        shuffled = sorted(files, key=lambda file: hashlib.sha256(f"{seed} {file}".encode()).digest())
        test = shuffled[held : held + shares["test"]] if flat else found["val"].get(name, [])
        parts = {"val": shuffled[:held], "test": test, "train": shuffled[sum(shares.values()) :]}
        rows += [
            replace(good[file], split=split, label=label)
            for split, chosen in parts.items()
            for file in chosen
            if file in good
        ]
    order = {"train": 0, "val": 1, "test": 2}
    return sorted(rows, key=lambda row: (order[row.split], row.label, row.name))
