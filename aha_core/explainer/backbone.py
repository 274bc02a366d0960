"""A frozen backbone that is not the target (paper): any timm model, by its name or from a local file.

Its weights are never trained and belong to no explainer's `parameters()` or state. What an explainer's folder keeps of
them is in `aha_core.explainer.storage`.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from aha_core.classifiers import reading
from aha_core.classifiers.build import create_model, load_state, read_weights
from aha_core.config import BackboneConfig, expand_path
from aha_core.errors import TargetError


class Backbone(nn.Module):
    """Feature levels of a frozen timm model for images in [0, 1].

    Args:
        image_size: side to which images are resized for it, pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, model: nn.Module, image_size: int) -> None:
        super().__init__()
        self.name, self.image_size = name, image_size
        self.model: Any = model.eval().requires_grad_(False)
        config: Any = self.model.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Backbone:
        """Frozen: stays in evaluation mode."""
        return super().train(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        """Copies of an explainer (averaged weights) share it."""
        return self

    def copy(self) -> Backbone:
        """One that is not shared."""
        twin = Backbone(self.name, copy.deepcopy(self.model), self.image_size)
        twin.mean, twin.std = self.mean.clone(), self.std.clone()
        return twin

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "B 3 H W"], depths: tuple[float, ...]) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        """Feature maps at the given depths (0 = first level, 1 = last), normalised over the channels of each position.

        The norm has no parameters: residual streams grow with depth, and stages of one decoder need one scale.
        """
        size = [self.image_size, self.image_size]
        if list(x.shape[2:]) != size:
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
        levels, _, _ = reading.read_levels(self.model, (x - self.mean) / self.std, depths, self.name)
        return tuple(F.layer_norm(level.movedim(1, -1), level.shape[1:2]).movedim(-1, 1) for level in levels)

    def digest(self) -> str:
        """SHA-256 of names, shapes and values of the weights."""
        total = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return total.hexdigest()


def build_backbone(config: BackboneConfig, own_copy: Path | None = None) -> Backbone:
    """The backbone that a configuration names.

    Args:
        own_copy: safetensors file that is read instead of the configured source, where it exists.

    Raises:
        TargetError: timm does not know or cannot download it, or the file does not fit.
    """
    if own_copy is not None and own_copy.is_file():
        return _from_file(config, own_copy)
    if config.source == "pretrained":
        model = create_model(config.name, 0, config.image_size, pretrained=True, section="explainer.backbone")
        return Backbone(config.name, model, config.image_size)
    if config.source == "train":
        raise TargetError(
            f"the backbone {config.name} is trained by `aha train` (explainer.backbone.source: train); "
            "elsewhere use source: checkpoint with its safetensors file"
        )
    return _from_file(config, expand_path(config.checkpoint, "explainer.backbone.checkpoint"))


def _from_file(config: BackboneConfig, file: Path) -> Backbone:
    """Strict but for the classifier, which a backbone does not have."""
    model: Any = create_model(config.name, 0, config.image_size, section="explainer.backbone")
    heads = model.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    own = model.state_dict()
    state = {
        key: value
        for key, value in read_weights(file, config.name).items()
        if key in own or not key.startswith(tuple(f"{head}." for head in heads))
    }
    load_state(model, state, file.name, config.name)
    return Backbone(config.name, model, config.image_size)
