"""What surrounds the training loop: a small `Runtime`, and the one of a single process.

stages.launch has the one of several processes, which torchrun and Ray Train start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Row = dict[str, float]


@runtime_checkable
class Runtime(Protocol):
    """What the loop needs from its surroundings."""

    rank: int
    world: int
    device: torch.device

    def wrap(self, module: nn.Module) -> nn.Module:
        """Average gradients over the ranks (DistributedDataParallel), or the module itself."""

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the ranks."""

    def restore(self) -> bytes | None:
        """The newest checkpoint, or None."""

    def report(self, row: Row, checkpoint: bytes | None) -> None:
        """A point of the curve on every rank; on rank 0 with a checkpoint where one is due."""


@dataclass
class LocalRuntime:
    """One process, no communication: checkpoints and reports go to the given callables."""

    device: torch.device
    load: Callable[[], bytes | None] = lambda: None
    save: Callable[[bytes], None] = lambda checkpoint: None
    on_report: Callable[[Row], None] = lambda row: None
    rank: int = 0
    world: int = 1

    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def mean(self, values: Tensor) -> Tensor:
        return values

    def restore(self) -> bytes | None:
        return self.load()

    def report(self, row: Row, checkpoint: bytes | None) -> None:
        if checkpoint is not None:
            self.save(checkpoint)
        self.on_report(row)
