"""glibc's memory for large tensors: kept for the next ones, instead of given back and faulted in again.

By default glibc maps a large tensor's pages anew and unmaps them when it dies, so that the kernel clears every page of
every activation. With large activations, as in convolutional networks, that is a part of the time on a CPU worth saving
(`docs/training-cost.md`). What is kept instead is the peak of the process's own use.
"""

from __future__ import annotations

import ctypes
import os
import platform

# Of malloc.h: the variable that a process reads when it starts, the parameter of mallopt, the value.
_SETTINGS = (
    ("MALLOC_MMAP_MAX_", -4, 0),  # no pages of their own for large tensors
    ("MALLOC_TRIM_THRESHOLD_", -1, 2**31 - 1),  # free memory stays, up to 2 GiB
    ("MALLOC_ARENA_MAX", -8, 1),  # threads share the one arena that grows without bound
)


def kept_memory() -> dict[str, str]:
    """Environment of processes that are to keep memory in all of their threads; empty where the user's has its own."""
    if any(name in os.environ for name, _, _ in _SETTINGS):
        return {}
    return {name: str(value) for name, _, value in _SETTINGS}


def keep_freed_memory() -> bool:
    """Let this process keep what its main thread frees.

    False where malloc is not glibc's, or the environment already has a setting of it.
    """
    if platform.libc_ver()[0] != "glibc" or not kept_memory():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(parameter, value) for _, parameter, value in _SETTINGS)


def return_free_memory() -> None:
    """Give the kernel what malloc holds and nobody uses, so that the resident set is what is in use; glibc only."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
