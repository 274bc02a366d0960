"""The public API: a trained explainer with its frozen target.

explainer = Explainer.load("outputs/explainer", "outputs/target")
maps = explainer.attribute(images)                      # (B, 1, H, W), one pass
maps = explainer.attribute(images, target=3, steps=5)   # class 3, five refinement steps
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.config import RefineConfig
from aha_core.errors import AttributionError
from aha_core.explainer import ExplainerNetwork
from aha_core.explainer.model import explain
from aha_core.explainer.storage import Training, load_explainer
from aha_core.masked_passes import MaskedPasses
from aha_core.ranking import standardise
from aha_core.refinement import DEFAULT_REFINEMENT, Refinement, refine
from aha_core.targets import Target


class Explainer:
    """One-pass maps of a frozen target, and their refinement.

    Args:
        target: the classifier.
        network: the trained explainer.
        training: how it was trained; refinement uses the same ranking, perturbations and seed.
        refinement: settings of the gradient steps; the number of steps is an argument of each call.
        memory_gb: GiB for the activations of a refinement step's passes through the target.
    """

    def __init__(
        self,
        target: Target,
        network: ExplainerNetwork,
        training: Training,
        refinement: RefineConfig = DEFAULT_REFINEMENT,
        memory_gb: float = 1.0,
    ) -> None:
        self.target, self.network = target, network.eval().requires_grad_(False)
        self.training, self.refinement = training, refinement
        self.passes = MaskedPasses(target, refinement.precision, memory_gb)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        target: Target | Path | str,
        refinement: RefineConfig = DEFAULT_REFINEMENT,
        memory_gb: float = 1.0,
    ) -> Explainer:
        """Read an explainer and, where a folder is given, its target.

        Raises:
            TargetError, AttributionError: files are missing or do not fit together.
        """
        loaded = target if isinstance(target, Target) else Target.load(Path(target))
        network, training = load_explainer(Path(folder), loaded)
        return cls(loaded, network, training, refinement, memory_gb)

    def to(self, device: torch.device | str) -> Explainer:
        self.target.to(device)
        self.network.to(device)
        return self

    @torch.no_grad()
    def attribute(
        self, x: Float[Tensor, "B 3 H W"], target: Int[Tensor, "B"] | int | None = None, steps: int = 0
    ) -> Float[Tensor, "B 1 H W"]:
        """Importance of every pixel for the class; larger = more important.

        Args:
            x: images in [0, 1] at the target's input size, never changed.
            target: class indices, or one for all images; the predicted class where None.
            steps: refinement steps T.

        Returns:
            float32 maps with mean 0 and standard deviation 1 per image before refinement: positive = more important
            than the image's average pixel.

        Raises:
            AttributionError: wrong image shape or class index.
        """
        size = self.target.image_size
        if x.ndim != 4 or x.shape[1:] != (3, size, size):
            raise AttributionError(f"expected images (B, 3, {size}, {size}) in [0, 1], got {tuple(x.shape)}")
        features = self.target.features(x, self.training.explainer.levels)
        classes = features.logits.argmax(dim=1) if target is None else self._classes(target, x)
        maps = standardise(explain(self.network, self.target, x, features, classes))
        return self.refine(x, maps, classes, steps).maps[-1] if steps else maps

    def refine(
        self, x: Float[Tensor, "B 3 H W"], maps: Float[Tensor, "B 1 H W"], classes: Int[Tensor, "B"], steps: int
    ) -> Refinement:
        """`aha_core.refinement.refine` with this explainer's settings."""
        config = self.refinement.model_copy(update={"steps": steps})
        training = self.training
        with torch.enable_grad():
            return refine(self.passes, x, maps, classes, config, training.ranking, training.perturbation, training.seed)

    def _classes(self, target: Tensor | int, x: Tensor) -> Tensor:
        classes = torch.as_tensor(target, device=x.device).expand(len(x))
        count = self.target.num_classes
        if int(classes.min()) < 0 or int(classes.max()) >= count:
            raise AttributionError(f"class {classes.tolist()} is outside 0..{count - 1} of {self.target.name}")
        return classes
