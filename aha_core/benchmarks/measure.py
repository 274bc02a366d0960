"""Time and peak memory of a function, in a process of its own.

Time on a CPU is the process's CPU time over its threads: what the clock shows on an idle machine, where the threads do
not wait. Other processes take cores away, and wall-clock time with them, but hardly any CPU time, so two measurements
on a shared machine can be compared. On a GPU it is the clock.

Peak memory of a CPU function is the growth of the process's high-water mark of resident memory (Linux: VmHWM, reset
before the call), with the C library told to give large blocks back at once; on a GPU it is CUDA's own counter.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import torch

from aha_core.errors import ResourceError

T = TypeVar("T")
MB = 2**20
M_MMAP_THRESHOLD = -3  # mallopt(3): blocks above this size are mapped singly and returned when freed


def in_fresh_process(function: Callable[..., T], *arguments: Any, threads: int, memory_gb: float | None = None) -> T:
    """function(*arguments) in a new process with its own threads, memory limit and high-water mark.

    The first call starts a server that has the function's module imported, every call forks from it: no process imports
    torch again, and none inherits what another one allocated.

    Raises ResourceError when it needs more memory than memory_gb, or than the machine has.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    with ProcessPoolExecutor(1, context, _enter, (threads, memory_gb)) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise ResourceError("the measured process was killed: the machine is out of memory") from error
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            raise ResourceError(f"does not fit into {memory_gb:.3g} GB" if memory_gb else "out of memory") from error


def _enter(threads: int, memory_gb: float | None) -> None:
    torch.set_num_threads(threads)
    if memory_gb is not None:
        limit = int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def available_gb() -> float:
    """Free memory of this machine."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 2**20
    raise ResourceError("cannot read MemAvailable; memory is measured on Linux only")


def seconds(function: Callable[[], object], device: torch.device, repeats: int = 5, enough: float = 5.0) -> float:
    """Median time of a call, after one that does not count; one call only where it takes `enough` s."""
    first = timed(function, device)[1]
    if first >= enough:
        return first
    times: list[float] = []
    while len(times) < repeats and sum(times) < enough:
        times.append(timed(function, device)[1])
    return statistics.median(times)


def timed(function: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """The result and the seconds that it took; see above."""
    start = _now(device)
    result = function()
    return result, _now(device) - start


def _now(device: torch.device) -> float:
    """Seconds from any start, with the device's queue emptied."""
    if device.type == "cpu":
        return time.process_time() / torch.get_num_threads()
    _wait(device)
    return time.perf_counter()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mb(function: Callable[[], object], device: torch.device) -> float:
    """Largest memory in use during one call, above what was in use before it. Call it after a warm-up."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return (torch.cuda.max_memory_allocated(device) - before) / MB
    if platform.system() != "Linux":
        raise ResourceError("peak memory on the CPU is measured on Linux only")
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 64 * 1024)
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before_kb = _status_kb("VmHWM")
    function()
    return (_status_kb("VmHWM") - before_kb) / 1024


def _status_kb(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise ResourceError(f"no {name} in /proc/self/status")
