"""What the steps of a refinement change: cells added to an image's map, or the weights of the network that made it.

    cells     up(C_b)                                 C_b in R^{G x G} of each image, enlarged bilinearly
    decoder   z(g(v_b; theta_b)) - z(g(v_b; theta))   theta_b: a copy of the weights for each image, v_b: its inputs

Both are 0 before the first step, whatever map they are added to. Cells can become any map; weights can only become maps
that the network can draw, with its edges. z is the standardisation of the ranking.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from aha_core.ranking import standardise


@runtime_checkable
class Change(Protocol):
    """parameters: leaves with one row for each image, which an optimiser moves."""

    parameters: list[Tensor]

    def __call__(self, rows: Int[Tensor, "K"]) -> Float[Tensor, "K 1 H W"]:
        """What is added to the maps of these images."""
        ...


class Cells:
    """A grid of `side` x `side` cells for each of `count` images of this size (H, W)."""

    def __init__(self, count: int, side: int, size: tuple[int, int], device: torch.device) -> None:
        self.size = size
        self.parameters = [torch.zeros(count, 1, side, side, device=device, requires_grad=True)]

    def __call__(self, rows: Int[Tensor, "K"]) -> Float[Tensor, "K 1 H W"]:
        return F.interpolate(self.parameters[0][rows], size=self.size, mode="bilinear", align_corners=False)


class DecoderWeights:
    """A copy of a network's weights for each image; the network itself stays as it is.

    The network runs image by image, since weights differ; the target's masked passes, most of the time, are in batches.

    Args:
        network: the explainer.
        inputs: of its `forward` for B images (`ExplainerNetwork.inputs`).
        count: B. A copy takes as much memory as the network, and twice that for Adam.
    """

    def __init__(self, network: nn.Module, inputs: tuple[Any, ...], count: int) -> None:
        self.network, self.inputs = network, inputs
        own = dict(network.named_parameters())
        self.names = list(own)
        self.parameters = [
            value.detach().expand(count, *value.shape).clone().requires_grad_() for value in own.values()
        ]
        with torch.no_grad():
            self.start = torch.cat([self._map(row) for row in range(count)])

    def __call__(self, rows: Int[Tensor, "K"]) -> Float[Tensor, "K 1 H W"]:
        return torch.cat([self._map(row) for row in rows.tolist()]) - self.start[rows]

    def _map(self, row: int) -> Float[Tensor, "1 1 H W"]:
        weights = {name: values[row] for name, values in zip(self.names, self.parameters, strict=True)}
        return standardise(functional_call(self.network, weights, _of_image(self.inputs, row)).float())


def _of_image(inputs: Any, row: int) -> Any:
    """One image's share of a network's inputs: tensors of a batch, tuples of them, None."""
    if isinstance(inputs, tuple):
        return tuple(_of_image(one, row) for one in inputs)
    return None if inputs is None else inputs[row : row + 1]
