"""The frozen classifier that is explained: any timm model behind one interface.

A `Target` takes images in [0, 1] (normalisation is inside), never trains, and in one forward pass gives
logits, multi-level feature maps and, through `class_rows`, the classifier's own weight row of any class.
Prefix tokens, grid and feature levels are read from the model.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import HybridEmbed
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

from aha_core.errors import TargetError
from aha_core.files import atomic_json, atomic_safetensors


@register_model
def vit_convstem_mini(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Small ViT that trains from scratch in minutes: convolutional stem of stride 8, 3 blocks of 96 channels (0.4 M).

    The stem follows "Early Convolutions Help Transformers See Better" (Xiao et al., 2021). The values and output
    projections of attention start near the identity, a simple case of "Mimetic Initialization of Self-Attention Layers"
    (Trockman & Kolter, 2023): the class token then sees the mean feature from the first step on, where the default
    initialisation stays at chance for the first epochs.
    """
    if pretrained:
        raise TargetError("vit_convstem_mini has no pretrained weights; use target.source: train")
    channels, strides, kernels = (24, 48, 48, 96, 96, 96), (2, 2, 1, 2, 1, 1), (5, 3, 3, 3, 3, 1)
    stem = ConvStem(channels=channels, depth=len(channels), stride=strides, kernel_size=kernels)
    settings: dict[str, Any] = {
        "img_size": 64, "patch_size": 1, "embed_dim": 96, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0,
        "embed_layer": partial(HybridEmbed, backbone=stem, proj=False),
    }  # fmt: skip
    settings.update({key: value for key, value in kwargs.items() if key in ("img_size", "num_classes")})
    model = VisionTransformer(**settings)
    with torch.no_grad():
        for block in model.blocks:
            attention: Any = block.attn
            value_rows = attention.qkv.weight[2 * model.embed_dim :]
            for weight in (value_rows, attention.proj.weight):
                weight += torch.eye(model.embed_dim)
    half = (0.5, 0.5, 0.5)
    model.pretrained_cfg = model.default_cfg = {
        "architecture": "vit_convstem_mini", "num_classes": model.num_classes, "mean": half, "std": half,
        "input_size": (3, settings["img_size"], settings["img_size"]), "crop_pct": 1.0, "interpolation": "bilinear",
    }  # fmt: skip
    return model


@dataclass(frozen=True)
class TargetFeatures:
    """What one forward pass of the target gives.

    logits: Float[B Y]; levels: feature maps Float[B C h w] in the order of the requested depths;
    final: the last, normalised feature map Float[B D h w] (the one that the classifier pools).
    """

    logits: Float[Tensor, "B Y"]
    levels: tuple[Float[Tensor, "B _ _ _"], ...]
    final: Float[Tensor, "B D h w"]

    def repeat(self, times: int) -> TargetFeatures:
        """The same features for several classes of each image, in blocks of the batch."""
        if times == 1:
            return self

        def again(values: Tensor) -> Tensor:
            return values.repeat(times, *[1] * (values.ndim - 1))

        return TargetFeatures(again(self.logits), tuple(map(again, self.levels)), again(self.final))


class Target(nn.Module):
    """A timm classifier, frozen, for images in [0, 1].

    Args:
        name: timm model name.
        image_size: side S of the square input, pixels.
        class_names: names in the order of the logits.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, model: nn.Module, image_size: int, class_names: list[str]) -> None:
        super().__init__()
        self.name, self.image_size, self.class_names = name, image_size, class_names
        self.model: Any = model.eval().requires_grad_(False)
        config: Any = model.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Target:
        """Frozen: stays in evaluation mode."""
        return super().train(False)

    @property
    def num_classes(self) -> int:
        return int(self.model.num_classes)

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens before the patch tokens; 0 for convolutional models."""
        return int(getattr(self.model, "num_prefix_tokens", 0))

    @property
    def blocks(self) -> nn.Module | None:
        """The transformer blocks of a ViT, or None."""
        return self.model.blocks if hasattr(self.model, "blocks") and self.num_prefix_tokens else None

    @property
    def classifier_weight(self) -> Float[Tensor, "Y D"]:
        """Rows w_c of the linear head; the mean of both heads for distilled models, whose logits are averaged."""
        head = self.model.get_classifier()
        heads = head if isinstance(head, tuple) else (head,)
        if any(getattr(one, "weight", None) is None for one in heads):
            raise TargetError(f"{self.name}: its classifier is {type(head).__name__}, which has no weight rows")
        return torch.stack([one.weight.flatten(1) for one in heads]).mean(dim=0)

    def prefer_fast_layout(self) -> None:
        """Channels-last weights for convolutional models: a masked pass with gradient takes 0.75 of the time on CPUs.

        Transformers have no convolution worth it.
        """
        if self.blocks is None:
            self.model.to(memory_format=torch.channels_last)

    def normalise(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        return (x - self.mean) / self.std

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B Y"]:
        """Logits of images in [0, 1]."""
        return self.model(self.normalise(x))

    def probabilities(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B Y"]:
        """softmax(logits) in float32."""
        return self(x).float().softmax(dim=-1)

    def class_rows(self, classes: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """The classifier's weight rows w_c, scaled to unit root-mean-square."""
        rows = self.classifier_weight[classes].float()
        return rows * torch.rsqrt(rows.square().mean(dim=-1, keepdim=True) + 1e-12)

    def level_indices(self, depths: tuple[float, ...]) -> list[int]:
        """Feature levels nearest to the given depths (0 = first, 1 = last)."""
        count = len(self.model.feature_info) if self.blocks is None else len(self.model.blocks)
        return [round(depth * (count - 1)) for depth in depths]

    def features(self, x: Float[Tensor, "B 3 H W"], depths: tuple[float, ...]) -> TargetFeatures:
        """One forward pass: logits, feature maps at the given depths, final feature map."""
        indices = self.level_indices(depths)
        wanted = sorted(set(indices))
        final, levels = self.model.forward_intermediates(self.normalise(x), indices=wanted, output_fmt="NCHW")
        logits = self.model.forward_head(final)
        by_index = dict(zip(wanted, levels, strict=True))
        return TargetFeatures(
            logits=logits,
            levels=tuple(by_index[index] for index in indices),
            final=self._spatial(final, grid=levels[-1].shape[-2:]),
        )

    def _spatial(self, final: Tensor, grid: torch.Size) -> Tensor:
        """Tokens (B, prefix + h*w, D) or channels-last maps (B, h, w, D) to (B, D, h, w)."""
        if final.ndim == 3:
            tokens = final[:, self.num_prefix_tokens :]
            return tokens.transpose(1, 2).unflatten(2, tuple(grid))
        channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        return final.permute(0, 3, 1, 2) if channels_last else final

    def save(self, folder: Path, extra: dict[str, Any] | None = None) -> None:
        """Write model.safetensors and target.json, each whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        atomic_safetensors(folder / "model.safetensors", self.model.state_dict())
        facts = {"name": self.name, "image_size": self.image_size, "class_names": self.class_names}
        atomic_json(folder / "target.json", facts | (extra or {}))

    @classmethod
    def load(cls, folder: Path) -> Target:
        """Read what `save` wrote. Raises TargetError when files are missing or do not match."""
        facts_file = folder / "target.json"
        if not facts_file.is_file():
            raise TargetError(f"no target in {folder}; run `aha target` first")
        facts = json.loads(facts_file.read_text())
        model = create_model(facts["name"], len(facts["class_names"]), facts["image_size"])
        load_weights(model, folder / "model.safetensors", facts["name"])
        return cls(facts["name"], model, facts["image_size"], facts["class_names"])


@contextmanager
def plain_attention(target: nn.Module, active: bool) -> Iterator[None]:
    """Attention as two products and a softmax where the fused kernel is slower: its backward pass in bf16 on CPUs.

    There a masked pass with gradient takes 0.73 of the fused kernel's time (`aha bench train`). Restores the model.
    """
    slow = active and torch.is_autocast_enabled("cpu")
    fused: list[Any] = [one for one in target.modules() if getattr(one, "fused_attn", False)] if slow else []
    try:
        for one in fused:
            one.fused_attn = False
        yield
    finally:
        for one in fused:
            one.fused_attn = True


def create_model(name: str, num_classes: int, image_size: int, pretrained: bool = False) -> nn.Module:
    """timm.create_model with errors that a user can act on.

    Raises TargetError for an unknown name (with near names) and when timm cannot build or download it.
    """
    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, [*timm.list_models(), *timm.list_pretrained()], n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else "; timm.list_models() lists the names"
        raise TargetError(f"target.name = {name!r} is not a timm model{hint}")
    settings = {"pretrained": pretrained, "num_classes": num_classes}
    try:
        try:
            return timm.create_model(name, img_size=image_size, **settings)
        except TypeError:  # convolutional models take any size and have no such argument
            return timm.create_model(name, **settings)
    except Exception as error:  # timm, the hub client and torch raise many kinds
        source = "could not download or load the pretrained weights of" if pretrained else "could not build"
        hint = "; without a network use target.source: checkpoint with a local file" if pretrained else ""
        raise TargetError(f"timm {source} {name!r}: {error}{hint}") from error


def load_weights(model: nn.Module, file: Path, name: str) -> None:
    """Strict load of a safetensors file.

    Raises TargetError naming missing, unexpected and mis-shaped keys.
    """
    if not file.is_file():
        raise TargetError(f"no checkpoint at {file} for {name}")
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise TargetError(f"{file.name} is not a readable safetensors file: {error}") from error
    own = model.state_dict()
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": sorted(
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own.keys() & state.keys()
            if state[key].shape != own[key].shape
        ),
    }
    found = [
        f"{len(keys)} keys {kind} ({', '.join(keys[:4])}{', …' if len(keys) > 4 else ''})"
        for kind, keys in problems.items()
        if keys
    ]
    if found:
        raise TargetError(f"{file.name} does not fit {name}: {'; '.join(found)}")
    model.load_state_dict(state)
