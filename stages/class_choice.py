"""Which classes of an image are explained: `--class` and `--against`."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.class_names import class_index
from aha_core.errors import AhaError
from aha_core.targets import Target


@dataclass(frozen=True)
class ClassChoice:
    """fixed: one class for all images; else the `top` most probable ones. `against`: the class of a contrast."""

    top: int = 1
    fixed: int | None = None
    against: int | None = None

    @classmethod
    def parse(cls, wanted: str | None, against: str | None, target: Target) -> ClassChoice:
        """From the command line. Raises AhaError for what the target does not have."""
        other = None if against is None else class_index(against, target, "--against")
        if wanted is None:
            return cls(against=other)
        match = re.fullmatch(r"top(\d+)", wanted)
        if match and wanted not in target.class_names:
            top, most = int(match[1]), target.num_classes - (other is not None)
            if not 1 <= top <= most:
                raise AhaError(f"--class {wanted}: expected top1 to top{most}; {target.name} has no more classes")
            return cls(top=top, against=other)
        fixed = class_index(wanted, target, "--class")
        if fixed == other:
            raise AhaError(f"--class and --against are both {target.class_names[fixed]}; name two classes")
        return cls(fixed=fixed, against=other)

    def __call__(self, probabilities: Float[Tensor, "B Y"]) -> Int[Tensor, "K B"]:
        """The classes of each image, most probable first; never the one of `against`."""
        if self.fixed is not None:
            return torch.full((1, len(probabilities)), self.fixed, device=probabilities.device)
        allowed = probabilities.clone()
        if self.against is not None:
            allowed[:, self.against] = -1
        return allowed.topk(self.top, dim=1).indices.T
