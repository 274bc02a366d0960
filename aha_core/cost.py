"""What a map costs: wall time, peak memory, and passes through the target.

    seconds     wall time of the call, the device synchronised before and after
    peak        CUDA: peak of allocated bytes above the bytes held before; CPU: peak resident set above the one before
                (Linux; with glibc, freed memory that the process keeps is given back first, so using it again counts)
    forward     images that entered the target's first layer
    gradients   images whose class scores were differentiated
    passes      both together (`aha_core.budget.counted`)

Passes are exact and repeat; time and memory belong to a machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aha_core.allocator import return_free_memory
from aha_core.budget import counted
from aha_core.targets import Target


@dataclass
class Cost:
    """Filled when the measured block ends. peak_bytes: None where the platform does not tell."""

    seconds: float = 0.0
    peak_bytes: int | None = None
    forward: int = 0
    gradients: int = 0

    @property
    def passes(self) -> float:
        return counted(self.forward, self.gradients)


@contextmanager
def measured(target: Target) -> Iterator[Cost]:
    """Measure a block that makes maps; the target's hooks are removed afterwards, also after an error."""
    cost = Cost()
    device = target.mean.device
    with ExitStack() as restore:
        restore.callback(_first_layer(target.model).register_forward_hook(_count_inputs(cost)).remove)
        for head in _heads(target.model):
            restore.callback(head.register_forward_hook(_count_gradients(cost)).remove)
        before = _start_peak(device)
        started = time.perf_counter()
        try:
            yield cost
        finally:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            cost.seconds = time.perf_counter() - started
            after = _read_peak(device)
            cost.peak_bytes = None if before is None or after is None else max(after - before, 0)


def _first_layer(model: nn.Module) -> nn.Module:
    """The first leaf module with a weight, in order of definition: the stem's convolution."""
    return next(m for m in model.modules() if not list(m.children()) and getattr(m, "weight", None) is not None)


def _heads(model: Any) -> list[nn.Module]:
    if not hasattr(model, "get_classifier"):
        return []
    head = model.get_classifier()
    return list(head) if isinstance(head, tuple) else [head]


def _count_inputs(cost: Cost) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        cost.forward += len(inputs[0])

    return hook


def _count_gradients(cost: Cost) -> Any:
    def differentiated(gradient: Tensor) -> None:
        cost.gradients += len(gradient)

    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(differentiated)

    return hook


def _start_peak(device: torch.device) -> int | None:
    """Reset the peak; bytes in use now."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return_free_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
    except OSError:
        return None
    return _status("VmRSS")


def _read_peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field)), None)
