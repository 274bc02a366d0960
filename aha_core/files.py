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


@contextmanager
def atomic_path(goal: Path) -> Iterator[Path]:
    """Yield a temporary path in the goal's folder; rename it to the goal on success, remove it on failure.

    Raises ResourceError when the disk is full.
    """
    goal.parent.mkdir(parents=True, exist_ok=True)
    temporary = goal.with_name(f".{goal.name}.{os.getpid()}.tmp{goal.suffix}")
    try:
        yield temporary
        os.replace(temporary, goal)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"no space left while writing {goal.name}; free some (`dvc gc -w` drops unused cached outputs) "
                "and run the same command again"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def atomic_text(goal: Path, text: str) -> None:
    with atomic_path(goal) as temporary:
        temporary.write_text(text)


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
