"""The explainer that reads the target's own features.

    r_c    = w_c; of a class that is not predicted, less a share of its competitors' rows  (`targets.contrast_rows`)
    tokens = sum_l project_l(norm(level_l)) + embed(<final token, r_c>, standardised) + embed(class evidence)
    tokens -> GridBlocks modulated by r_c -> UpBlocks fused with the image -> one channel -> bilinear to the input

The tokens lie on the final level's grid, or on one of 1/16 of the input where that is finer: convolutional networks end
at 1/32, and their level at 1/16 keeps its positions.

One shared forward pass of the target pays for prediction, features and class rows. Reading the target itself makes
the map depend on its weights (the model-randomisation sanity check holds by construction) and needs no second
backbone; the classifier's rows w and the "logit lens" <token, r_c> make it class-conditional for any class of any head.
A class that is not predicted has lost to others, and its map is for it rather than for them; that costs a product of a
vector and the classifier's matrix.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from aha_core.config import DptConfig, ExplainerConfig, FeaturesConfig
from aha_core.explainer.backbone import Backbone, build_backbone
from aha_core.explainer.base import ExplainerNetwork, explain
from aha_core.explainer.decoder import ChannelNorm, GridBlock, UpBlock
from aha_core.explainer.dpt import DptExplainer
from aha_core.targets import Target, TargetFeatures

__all__ = ["CONTRAST", "FeatureExplainer", "build_explainer", "explain", "logit_lens"]

STRIDE = 16  # pixels of a token, at most
# Of the maps of classes that are not predicted; chosen on training images of ViT-Tiny (docs/designs.md).
CONTRAST = 0.5


class FeatureExplainer(ExplainerNetwork):
    """Decoder of a target's feature levels into one importance map.

    Args:
        level_channels: channels of each feature level.
        row: length D of the classifier's weight rows.
        lens: whether the final feature map has D channels, so that <token, r_c> exists.
        evidence: channels of `Target.class_evidence`; 0 where the target has none.
    """

    def __init__(
        self, config: FeaturesConfig, level_channels: tuple[int, ...], row: int, lens: bool, evidence: int
    ) -> None:
        super().__init__()
        self.depths, self.lens = config.levels, lens
        width = config.width
        self.levels = nn.ModuleList(
            nn.Sequential(ChannelNorm(channels), nn.Conv2d(channels, width, 1)) for channels in level_channels
        )
        self.lens_embedding = nn.Conv2d(1, width, 1, bias=False) if lens else None
        self.evidence = nn.Conv2d(evidence, width, 1, bias=False) if evidence else None
        self.row = nn.Sequential(nn.Linear(row, width), nn.GELU())
        self.blocks = nn.ModuleList(GridBlock(width, width) for _ in range(config.depth))
        stem = max(width // 4, 8)
        outs = [width, *(max(width // 2**scale, 16) for scale in range(1, config.refine_scales + 1))]
        if config.refine_scales:
            self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, padding=1), nn.GELU())
        self.ups = nn.ModuleList(UpBlock(outs[i], stem, outs[i + 1]) for i in range(config.refine_scales))
        self.head = nn.Conv2d(outs[-1], 1, 1)

    def inputs(
        self, target: Target, x: Float[Tensor, "B 3 H W"], features: TargetFeatures, classes: Int[Tensor, "B"],
        contrast: float,
    ) -> tuple[Any, ...]:  # fmt: skip
        rows = target.class_rows(classes, features.logits, contrast)
        return x, features.levels, features.final, rows, target.class_evidence(features, rows)

    def forward(
        self,
        x: Float[Tensor, "B 3 H W"],
        levels: tuple[Float[Tensor, "B _ _ _"], ...],
        final: Float[Tensor, "B D h w"],
        rows: Float[Tensor, "B D"],
        evidence: Float[Tensor, "B K h w"] | None,
    ) -> Float[Tensor, "B 1 H W"]:
        """Raw importance maps at the input's resolution.

        Args:
            x: images in [0, 1].
            levels, final: see `TargetFeatures`.
            rows: r_c of the explained classes, unit root-mean-square.
            evidence: see `Target.class_evidence`.
        """
        grid = torch.Size(max(side, full // STRIDE) for side, full in zip(final.shape[-2:], x.shape[-2:], strict=True))
        tokens = sum(_at(grid, project(level)) for project, level in zip(self.levels, levels, strict=True))
        if self.lens_embedding is not None:
            tokens = tokens + self.lens_embedding(_at(grid, logit_lens(final, rows)))
        if self.evidence is not None and evidence is not None:
            tokens = tokens + self.evidence(_at(grid, evidence))
        condition = self.row(rows)
        for block in self.blocks:
            tokens = block(tokens, condition)
        pyramid = [self.stem(image - 0.5) for image in self._pyramid(x, grid)]
        for up, image in zip(self.ups[:-1], pyramid[:-1], strict=True):
            tokens = up(tokens, image)
        scores = self.ups[-1](tokens, pyramid[-1], self.head) if pyramid else self.head(tokens)
        return F.interpolate(scores, size=x.shape[-2:], mode="bilinear", align_corners=False)

    def _pyramid(self, x: Float[Tensor, "B 3 H W"], grid: torch.Size) -> list[Float[Tensor, "B 3 _ _"]]:
        """The image at 2, 4, ... times the token grid, at most its own size; each from the next finer one."""
        images: list[Tensor] = []
        for scale in range(len(self.ups), 0, -1):
            size = [min(side * 2**scale, full) for side, full in zip(grid, x.shape[-2:], strict=True)]
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
            images.insert(0, x)
        return images


def _at(grid: torch.Size, level: Float[Tensor, "B C _ _"]) -> Float[Tensor, "B C h w"]:
    """The level on the token grid."""
    if level.shape[-2:] == grid:
        return level
    return F.interpolate(level.float(), size=grid, mode="bilinear", antialias=level.shape[-1] > grid[-1])


def logit_lens(final: Float[Tensor, "B D h w"], rows: Float[Tensor, "B D"]) -> Float[Tensor, "B 1 h w"]:
    """<token, r_c> of every position, standardised over the image."""
    lens = torch.einsum("bdhw,bd->bhw", final.float(), rows)[:, None]
    centred = lens - lens.mean(dim=(2, 3), keepdim=True)
    return centred / (centred.square().mean(dim=(2, 3), keepdim=True).sqrt() + 1e-6)


def build_explainer(config: ExplainerConfig, target: Target, backbone: Backbone | None = None) -> ExplainerNetwork:
    """An untrained explainer that fits the target; its weights follow torch's global seed.

    They lie channels-last, which takes a fifth off the time of the convolutions on CPUs.

    Args:
        backbone: of a `dpt` explainer, where it is already there; by its configuration where None.

    Raises:
        TargetError: the target's features cannot be read, or the backbone cannot be had.
    """
    if isinstance(config, DptConfig):
        dpt = DptExplainer(config, target.num_classes, backbone or build_backbone(config.backbone))
        return dpt.to(memory_format=torch.channels_last)
    features = target.probe(config.levels)
    assert features.final is not None
    row = target.classifier_weight.shape[1]
    channels = tuple(level.shape[1] for level in features.levels)
    evidence = target.class_evidence(features, target.classifier_weight[:1])
    lens, heads = features.final.shape[1] == row, 0 if evidence is None else evidence.shape[1]
    network = FeatureExplainer(config, channels, row, lens, heads)
    return network.to(memory_format=torch.channels_last)
