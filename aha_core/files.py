"""Files that are there whole or not at all: written to a temporary name beside the goal, then renamed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aha_core.errors import ResourceError

NOT_WRITABLE = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


@contextmanager
def atomic_path(goal: Path) -> Iterator[Path]:
    """Yield a temporary path in the goal's folder; rename it to the goal on success, remove it on failure.

    Raises ResourceError when the disk is full, or nothing can be written there.
    """
    temporary = goal.with_name(f".{goal.name}.{os.getpid()}.tmp{goal.suffix}")
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        if goal.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(goal))
        try:
            yield temporary
            os.replace(temporary, goal)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"no space left while writing {goal.name}; free some (`dvc gc -w` drops unused cached outputs) "
                "and run the same command again"
            ) from error
        own = error.filename is not None and Path(error.filename) in (temporary, goal, *goal.parents)
        if own and error.errno in NOT_WRITABLE:
            raise ResourceError(f"cannot write {goal}: {error.strerror}; choose another place") from error
        raise


def atomic_text(goal: Path, text: str) -> None:
    """As UTF-8; bytes of a file name that are of no encoding become escapes, which JSON reads back."""
    with atomic_path(goal) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def atomic_json(goal: Path, value: Any) -> None:
    """Indented JSON with a final newline; the same value always gives the same bytes."""
    atomic_text(goal, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def array_writer(goal: Path, shape: tuple[int, ...], dtype: Any) -> Iterator[Callable[[Any], None]]:
    """Yield `append(array)`: write a .npy file piece by piece along its first axis.

    Plain writes instead of a memory map, whose pages on a full disk kill the process.
    Raises ResourceError when the disk is full, ValueError when the pieces do not fill the shape.
    """
    import numpy as np

    dtype = np.dtype(dtype)
    written = 0
    with atomic_path(goal) as temporary:
        with temporary.open("wb") as stream:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)

            def append(array: Any) -> None:
                nonlocal written
                piece = np.ascontiguousarray(array, dtype=dtype)
                stream.write(piece.data.cast("B"))
                written += piece.size

            yield append
        if written != np.prod(shape, dtype=np.int64):
            raise ValueError(f"{goal.name}: {written} values written, shape {shape} needs {np.prod(shape)}")


def atomic_safetensors(goal: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """safetensors on the CPU, readable for all who may read the files beside it; safetensors' own writer keeps its
    files to their owner. Raises ResourceError when the disk is full.
    """
    from safetensors.torch import save

    with atomic_path(goal) as temporary:
        temporary.write_bytes(save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata))
