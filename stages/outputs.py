"""Stage outputs that are there whole or not at all, made by one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aha_core.errors import ResourceError


@contextmanager
def rebuild(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside the goal; it replaces the goal on success and disappears on failure."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def exclusive(file: Path, what: str) -> Iterator[None]:
    """Hold the lock on a file, which disappears at the end; a killed process holds none.

    Raises ResourceError while another process holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise ResourceError(
                f"{what} runs already, in process {stream.read() or 'unknown'}; wait for it, or end it and run the "
                "same command again"
            ) from None
        except OSError:  # a file system without locks
            pass
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
