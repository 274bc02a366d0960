"""What every baseline shares: settings, the registry entry, and the shell around one method's formula.

`Baseline.attribute` cuts micro-batches, protects the caller's tensors, asks the target for the predicted class where
none is given, and brings maps to input resolution (bilinear). A method only writes `_maps`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.errors import AttributionError
from aha_core.protocols import Attributor
from aha_core.targets import Target


@dataclass(frozen=True)
class BaselineSettings:
    """What the methods need besides the target.

    seed: of random maps, noise and masks.
    ig_steps: steps of Integrated Gradients.
    rise_masks: random masked images per map, the same budget for RISE, Kernel SHAP and LIME.
    patch_grid: cells per side of the patches of occlusion, Kernel SHAP, LIME, extremal masks and the greedy order.
    mask_steps: optimisation steps of extremal masks.
    batch_size: images per pass through the target.
    reference: images in [0, 1] to their reference images, for methods that remove or interpolate.
    fastshap: folder of the trained FastSHAP network, or None.
    """

    seed: int
    ig_steps: int
    rise_masks: int
    patch_grid: int
    mask_steps: int
    batch_size: int
    reference: Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B 3 H W"]]
    fastshap: Path | None


def always_applies(_: Target) -> str | None:
    """For methods that need nothing but logits."""
    return None


def always_ready(_: BaselineSettings) -> str | None:
    """For methods that need nothing to be made first."""
    return None


@dataclass(frozen=True)
class BaselineSpec:
    """One line of the registry.

    passes: cost of one map, counted in forward passes of the target; a backward pass counts as two.
    applies_to: the reason why a target cannot be explained this way, or None.
    families: the same for people.
    ready: the reason why something that the method needs is not there, or None.
    """

    name: str
    description: str
    factory: Callable[[Target, BaselineSettings], Attributor]
    passes: str
    applies_to: Callable[[Target], str | None] = always_applies
    families: str = "any classifier"
    ready: Callable[[BaselineSettings], str | None] = always_ready


class Baseline(ABC):
    """Implements `Attributor` around one method's `_maps`."""

    class_specific: ClassVar[bool] = True

    def __init__(self, target: Target, settings: BaselineSettings) -> None:
        self.target, self.settings = target, settings

    def attribute(
        self, x: Float[Tensor, "B 3 H W"], target: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B 1 H W"]:
        """Maps of x (in [0, 1]) for the target classes, or for the predicted ones where None.

        Raises AttributionError for inputs of another shape.
        """
        if x.ndim != 4 or x.shape[1] != 3 or (target is not None and target.shape != x.shape[:1]):
            given = "no classes" if target is None else f"classes of shape {tuple(target.shape)}"
            raise AttributionError(f"expected images (B, 3, H, W) and B classes, got {tuple(x.shape)} and {given}")
        # Clones made outside inference mode may take part in autograd, whatever mode the caller is in.
        with torch.inference_mode(False), torch.enable_grad():
            maps = [
                self._maps(images, self._classes(images, classes)).detach().float()
                for images, classes in zip(*self._batches(x, target), strict=True)
            ]
            return F.interpolate(torch.cat(maps), size=x.shape[-2:], mode="bilinear", align_corners=False)

    @abstractmethod
    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 h w"]:
        """Maps of one micro-batch at the method's own resolution. x and classes belong to the callee."""

    def _batches(self, x: Tensor, target: Tensor | None) -> tuple[list[Tensor], list[Tensor | None]]:
        images = list(x.detach().clone().split(self.settings.batch_size))
        if target is None:
            return images, [None] * len(images)
        return images, list(target.detach().clone().split(self.settings.batch_size))

    def _classes(self, x: Tensor, classes: Tensor | None) -> Int[Tensor, "B"]:
        if classes is not None:
            return classes
        if not self.class_specific:
            return torch.zeros(len(x), dtype=torch.long, device=x.device)
        with torch.no_grad():
            return self.target(x).argmax(dim=1)


def class_scores(logits: Float[Tensor, "B Y"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B"]:
    """The logit of each image's class."""
    return logits.gather(1, classes[:, None]).squeeze(1)


def image_generator(image: Float[Tensor, "3 H W"], seed: int) -> torch.Generator:
    """A CPU generator seeded by the seed and the image's content: the same in every batch and on every device."""
    content = image.detach().float().cpu().contiguous().numpy().tobytes()
    digest = hashlib.sha256(seed.to_bytes(8, "little") + content).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
