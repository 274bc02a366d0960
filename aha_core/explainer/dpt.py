"""The paper's explainer: a DPT decoder on four levels of a frozen foreign backbone, conditioned on a class embedding.

    t_l    = GELU(W_l [token_l, e_c])               readout "project" with the class embedding e_c in place of CLS
    r_l    = conv3x3(resample(conv1x1(t_l)))        reassembled to the strides 4, 8, 16, 32 of the input
    p      = fuse_l(p, r_l), l = 4 .. 1             residual units, x2 bilinear
    A      = refine(head(p))                        to the input's resolution, one channel

Sources: "Learn to Rank" (arXiv 2604.05819) and its released settings; DPT (Ranftl et al., ICCV 2021). The backbone does
not see the target: any target with as many classes, also a randomised one, gets the same map before refinement. Each
class has an embedding of its own, trained only where that class was explained. Two choices are ours: levels are
normalised over channels, and Dropout2d draws by image and class (`kept_channels`).
"""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aha_core.config import DptConfig
from aha_core.errors import AttributionError
from aha_core.explainer.backbone import Backbone
from aha_core.explainer.base import ExplainerNetwork
from aha_core.targets import Target, TargetFeatures

STRIDES = (4, 8, 16, 32)


class Reassemble(nn.Module):
    """Tokens of one level and the class embedding to a map at that level's stride.

    Args:
        tokens: channels D of the level.
        channels: after the 1x1 convolution; width: after the 3x3 one.
        doublings: log2 of the change of resolution, negative = coarser.
    """

    def __init__(self, tokens: int, embedding: int, channels: int, width: int, doublings: int) -> None:
        super().__init__()
        self.readout = nn.Sequential(nn.Linear(tokens + embedding, tokens), nn.GELU())
        self.project = nn.Conv2d(tokens, channels, 1)
        if doublings > 0:
            self.resample: nn.Module = nn.ConvTranspose2d(channels, channels, 1 << doublings, stride=1 << doublings)
        else:
            halvings = (nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(-doublings))
            self.resample = nn.Sequential(*halvings)
        self.out = nn.Conv2d(channels, width, 3, padding=1, bias=False)

    def forward(self, level: Float[Tensor, "B D h w"], embedding: Float[Tensor, "B E"]) -> Float[Tensor, "B F h2 w2"]:
        tokens = level.flatten(2).transpose(1, 2)
        tokens = self.readout(torch.cat([tokens, embedding[:, None].expand(-1, tokens.shape[1], -1)], dim=2))
        return self.out(self.resample(self.project(tokens.transpose(1, 2).unflatten(2, level.shape[2:]))))


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return x + self.second(F.relu(self.first(F.relu(x))))


class Fusion(nn.Module):
    """unit(path + unit(skip)), bilinear to a size, 1x1; the deepest block has no path."""

    def __init__(self, channels: int, deepest: bool) -> None:
        super().__init__()
        self.skip = None if deepest else ResidualUnit(channels)
        self.unit = ResidualUnit(channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(
        self, path: Float[Tensor, "B C h w"] | None, skip: Float[Tensor, "B C h w"], size: tuple[int, int]
    ) -> Float[Tensor, "B C h2 w2"]:
        joined = skip if path is None or self.skip is None else path + self.skip(skip)
        return self.out(F.interpolate(self.unit(joined), size=size, mode="bilinear", align_corners=True))


class DptExplainer(ExplainerNetwork):
    """Class embedding, reassembly, fusion, head, refinement block; about 16 M parameters on a ViT-L.

    Args:
        classes: logits of the target, Y.
        backbone: shared by copies of this network, outside its parameters and state.
    """

    def __init__(self, config: DptConfig, classes: int, backbone: Backbone) -> None:
        super().__init__()
        self._frozen = (backbone,)  # in a tuple, so that it is no submodule
        self._read: WeakKeyDictionary[TargetFeatures, tuple[Tensor, ...]] = WeakKeyDictionary()
        self.depths, self.dropout = config.stages, config.dropout
        side, width = config.backbone.image_size, config.width
        levels = backbone(torch.zeros(1, 3, side, side, device=backbone.mean.device), config.stages)
        embedding = levels[-1].shape[1]
        self.classes = nn.Embedding(classes, embedding)
        self.reassemble = nn.ModuleList(
            Reassemble(level.shape[1], embedding, config.channels, width, _doublings(level, side / stride))
            for level, stride in zip(levels, STRIDES, strict=True)
        )
        self.fuse = nn.ModuleList(Fusion(width, deepest=stride == STRIDES[-1]) for stride in STRIDES)
        self.head_in = nn.Conv2d(width, width // 2, 3, padding=1)
        self.head_out = nn.Sequential(
            nn.Conv2d(width // 2, width // 4, 3, padding=1), nn.ReLU(), nn.Conv2d(width // 4, width, 1)
        )
        self.refine = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, width, 1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.final = nn.Conv2d(width, 1, 3, padding=1)
        nn.init.normal_(self.final.weight, std=0.01)

    @property
    def backbone(self) -> Backbone:
        return self._frozen[0]

    def _apply(self, fn, recurse: bool = True):  # type: ignore[no-untyped-def]
        """The backbone follows to other devices."""
        self.backbone._apply(fn)
        return super()._apply(fn, recurse)

    def inputs(
        self, target: Target, x: Float[Tensor, "B 3 H W"], features: TargetFeatures, classes: Int[Tensor, "B"],
        contrast: float,
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:  # fmt: skip
        """Images, stages of the backbone, classes. Several classes of the same images share one backbone
        pass, also where `features.repeat` put them into one batch.

        Raises AttributionError when the target has classes without an embedding.
        """
        if target.num_classes != self.classes.num_embeddings:
            raise AttributionError(
                f"the explainer has embeddings of {self.classes.num_embeddings} classes, {target.name} has "
                f"{target.num_classes}; explainer.kind: features explains any class of any head"
            )
        images = features.origin or features
        if images not in self._read:
            self._read[images] = self.backbone(x[: len(images.logits)], self.depths)
        times = len(x) // len(images.logits)
        return x, tuple(stage.repeat(times, 1, 1, 1) for stage in self._read[images]), classes

    def forward(
        self, x: Float[Tensor, "B 3 H W"], stages: tuple[Float[Tensor, "B _ _ _"], ...], classes: Int[Tensor, "B"]
    ) -> Float[Tensor, "B 1 H W"]:
        """Raw importance maps at the input's resolution."""
        embedding = self.classes(classes)
        maps = [part(stage, embedding) for part, stage in zip(self.reassemble, stages, strict=True)]
        path: Tensor | None = None
        for level in reversed(range(len(maps))):
            finer = maps[level - 1].shape[2:] if level else [2 * side for side in maps[0].shape[2:]]
            path = self.fuse[level](path, maps[level], (int(finer[0]), int(finer[1])))
        fine = F.interpolate(self.head_in(path), scale_factor=2, mode="bilinear", align_corners=True)
        fine = self.head_out(fine)
        if self.training and self.dropout > 0:
            kept = kept_channels(x, classes, fine.shape[1], self.dropout).to(fine)
            fine = fine * kept[:, :, None, None] / (1 - self.dropout)
        return F.interpolate(self.final(self.refine(fine)), size=x.shape[2:], mode="bilinear", align_corners=False)


def _doublings(level: Tensor, goal: float) -> int:
    """Steps of x2 from a level's grid to the nearest one of `goal` cells a side."""
    return round(math.log2(goal / max(level.shape[2:])))


def kept_channels(
    x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"], channels: int, dropout: float
) -> Bool[Tensor, "B C"]:
    """Dropout2d's choice as a function of each image and its class.

    Not of a global generator: a batch must give the same loss on any number of workers and after a resumed run.
    """
    pixels = (x.detach() * 255).round().long().flatten(1).cpu()
    places = torch.arange(1, pixels.shape[1] + 1)
    keys = (pixels * places).sum(dim=1) * 65537 + classes.cpu()
    kept = [torch.rand(channels, generator=torch.Generator().manual_seed(int(key))) for key in keys]
    return torch.stack(kept) >= dropout
