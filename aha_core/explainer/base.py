"""What every explainer network is to training, storage and the public API."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from aha_core.targets import Target, TargetFeatures


class ExplainerNetwork(nn.Module, ABC):
    """A trainable network with all that it trains in `parameters()`.

    `forward` takes what `inputs` gives: gradient averaging over workers wraps `forward` alone, so everything frozen
    (the target, a backbone) runs outside of it.
    """

    @abstractmethod
    def inputs(
        self, target: Target, x: Float[Tensor, "B 3 H W"], features: TargetFeatures, classes: Int[Tensor, "B"],
        contrast: float,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Arguments of `forward` for the maps of the given classes.

        Args:
            target: the classifier.
            x: images in [0, 1].
            features: the target's features of x at the depths that the configuration names; one object for all
                classes of the same images.
            classes: logit indices.
            contrast: see `targets.contrast_rows`; nothing to networks that do not read the classifier's rows.
        """


def explain(
    explainer: nn.Module, target: Target, x: Float[Tensor, "B 3 H W"], features: TargetFeatures,
    classes: Int[Tensor, "B"], contrast: float = 0.0,
) -> Float[Tensor, "B 1 H W"]:  # fmt: skip
    """Raw maps of the given classes from features that are already there.

    The network may be wrapped for training, which knows no contrast.
    """
    network: Any = getattr(explainer, "module", explainer)
    return explainer(*network.inputs(target, x, features, classes, contrast))
