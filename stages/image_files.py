"""The images that a user names: files, folders, patterns, a list on standard input; and names for what is written."""

from __future__ import annotations

import glob
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from aha_core.data.decode import bombs_are_errors, image_extensions
from aha_core.errors import AhaError

T = TypeVar("T")
_LONGEST_NAME = 150  # bytes: file systems allow 255 with all endings


@dataclass
class Found:
    """files: in the order of the arguments, each once; bad: what is no file, and why."""

    files: list[Path] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)


def find_images(arguments: Iterable[str], listed: Iterable[str], out: Path) -> Found:
    """Files that the arguments name.

    A folder stands for all images below it, hidden ones and those in `out` left out; a pattern (`*`, `?`, `**`) for
    what it matches; `-` for one path per line of `listed`.
    """
    found, seen = Found(), set[Path]()

    def take(file: Path) -> None:
        if file.resolve() not in seen:
            seen.add(file.resolve())
            found.files.append(file)

    def take_path(path: Path) -> None:
        if path.is_dir():
            inside = sorted(_images_below(path, out.resolve()))
            if not inside:
                found.bad.append((str(path), "no images in this folder"))
            for file in inside:
                take(file)
        else:
            take(path)

    for argument in arguments:
        if argument == "-":
            for line in listed:
                if line.strip():
                    take_path(Path(line.rstrip("\r\n")))
        elif glob.has_magic(argument) and not Path(argument).exists():
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 (absolute patterns)
            if not matches:
                found.bad.append((argument, "no file matches"))
            for match in matches:
                take_path(Path(match))
        else:
            take_path(Path(argument))
    return found


def _images_below(folder: Path, out: Path) -> Iterator[Path]:
    endings = image_extensions()
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in parts)
        if not hidden and file.suffix.lower() in endings and file.is_file() and not file.resolve().is_relative_to(out):
            yield file


def output_names(files: Iterable[Path], out: Path, endings: Iterable[str]) -> list[str]:
    """One name for each file, distinct also where file systems ignore case, without anything that leaves the folder.

    Args:
        endings: what is written for a name; no output replaces an input.
    """
    files, endings = list(files), tuple(endings)
    inputs = {str(file.resolve()).casefold() for file in files}
    taken = {"summary"}
    names = []
    for file in files:
        plain = _shortened(re.sub(r"[^\w.-]+", "_", file.stem).strip("._ ")) or "image"
        name, number = plain, 1
        while name.casefold() in taken or any(
            str((out / f"{name}{ending}").resolve()).casefold() in inputs for ending in endings
        ):
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _shortened(name: str) -> str:
    """Its first whole characters, as UTF-8."""
    return name.encode(errors="replace")[:_LONGEST_NAME].decode(errors="ignore")


def read_ahead(files: Iterable[T], read: Callable[[T], object], ahead: int, threads: int) -> Iterator[tuple[T, object]]:
    """(file, read(file) or the AhaError it raised), in order; at most `ahead` results wait in memory."""

    def attempt(file: T) -> object:
        try:
            return read(file)
        except AhaError as error:
            return error

    waiting: deque[tuple[T, Future[object]]] = deque()
    with bombs_are_errors(), ThreadPoolExecutor(threads) as pool:
        for file in files:
            waiting.append((file, pool.submit(attempt, file)))
            if len(waiting) > ahead:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
