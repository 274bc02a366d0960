"""Decoder blocks: class-modulated residual blocks on the token grid, upsampling blocks fused with the image.

Conditioning is FiLM (Perez et al., 2018) on a row made of the classifier's own weight, so a class needs no embedding of
its own and classes never seen in training work. The residual block follows ConvNeXt (Liu et al., 2022).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Normalise every position over its channels (ConvNeXt's LayerNorm2d): no statistics over the batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class FiLM(nn.Module):
    """x (1 + gamma(w)) + beta(w); the identity at initialisation."""

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(condition, 2 * channels)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Float[Tensor, "B C h w"], w: Float[Tensor, "B D"]) -> Float[Tensor, "B C h w"]:
        gamma, beta = self.affine(w)[..., None, None].chunk(2, dim=1)
        return x * (1 + gamma) + beta


class GridBlock(nn.Module):
    """Depthwise 7x7, norm, FiLM, pointwise MLP, plus the image-wide mean of the features as context; residual."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = ChannelNorm(channels)
        self.film = FiLM(condition, channels)
        self.context = nn.Linear(channels, channels)
        self.expand = nn.Conv2d(channels, 3 * channels, 1)
        self.project = nn.Conv2d(3 * channels, channels, 1)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Float[Tensor, "B C h w"], w: Float[Tensor, "B D"]) -> Float[Tensor, "B C h w"]:
        with torch.autocast(x.device.type, enabled=False):  # a depthwise convolution's backward pass is slow in bf16
            y = self.spatial(x.float())
        y = self.film(self.norm(y), w)
        y = y + self.context(y.mean(dim=(2, 3)))[..., None, None]
        return x + self.scale * self.project(F.gelu(self.expand(y)))


class UpBlock(nn.Module):
    """x2 bilinear upsampling, plus image features of that resolution, then a residual 3x3 convolution.

    Channels shrink before the upsampling and the image is added, not concatenated (feature pyramids, Lin et al., 2017):
    the wide convolutions at high resolution were half of the decoder's time. For the same reason the last block applies
    the head, a 1x1 convolution, by itself: after a convolution it is one convolution to the head's few channels.
    """

    def __init__(self, channels: int, image_channels: int, out: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, out, 1)
        self.image = nn.Conv2d(image_channels, out, 3, padding=1)
        self.norm = ChannelNorm(out)
        self.conv = nn.Conv2d(out, out, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "B C h w"], image: Float[Tensor, "B I H W"], head: nn.Conv2d | None = None
    ) -> Float[Tensor, "B _ H W"]:
        """The block's result, `out` channels, or `head` of it."""
        x = F.interpolate(self.reduce(x), size=image.shape[-2:], mode="bilinear", align_corners=False)
        x = x + self.image(image)
        y = F.gelu(self.norm(x))
        if head is None:
            return x + self.conv(y)
        mixing, own = head.weight.flatten(1), self.conv
        assert own.bias is not None
        return head(x) + F.conv2d(y, torch.einsum("ko,oihw->kihw", mixing, own.weight), mixing @ own.bias, padding=1)
