"""The frozen classifier that is explained: any timm model behind one interface.

A `Target` takes images in [0, 1] (normalisation is inside), never trains, and in one forward pass gives
logits, multi-level feature maps and, through `class_rows`, the classifier's own weight row of any class.
Prefix tokens, grid, feature levels and classifier are read from the model (`aha_core.classifiers.reading`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aha_core.classifiers import evidence, reading
from aha_core.classifiers.build import create_model, load_state, load_weights, read_weights
from aha_core.classifiers.folding import fold_batch_norms
from aha_core.classifiers.zero_shot import rebuild_zero_shot, zero_shot_facts
from aha_core.errors import TargetError
from aha_core.files import atomic_json, atomic_safetensors

__all__ = ["Target", "TargetFeatures", "create_model", "load_weights"]


@dataclass(frozen=True, eq=False)
class TargetFeatures:
    """What one forward pass of the target gives.

    logits: Float[B Y]; levels: feature maps Float[B C h w] in the order of the requested depths;
    final: the classifier's input vector at every position, Float[B D h w]; None where no depths were requested;
    attention: of the class tokens; None in models without them; origin: what `repeat` repeated.
    """

    logits: Float[Tensor, "B Y"]
    levels: tuple[Float[Tensor, "B _ _ _"], ...]
    final: Float[Tensor, "B D h w"] | None
    attention: evidence.ClassAttention | None = None
    origin: TargetFeatures | None = None

    def repeat(self, times: int) -> TargetFeatures:
        """The same features for several classes of each image, in blocks of the batch."""
        if times == 1:
            return self

        def again(values: Tensor) -> Tensor:
            return values.repeat(times, *[1] * (values.ndim - 1))

        final = None if self.final is None else again(self.final)
        attention = self.attention and evidence.ClassAttention(
            again(self.attention.weights), tuple(map(again, self.attention.values))
        )
        return TargetFeatures(again(self.logits), tuple(map(again, self.levels)), final, attention, self.origin or self)


class Target(nn.Module):
    """A timm classifier, frozen, for images in [0, 1].

    Args:
        name: timm model name.
        image_size: side S of the square input, pixels.
        class_names: names in the order of the logits.

    Raises:
        TargetError: the model has no classifier, one of a single logit, or another number of classes than names.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, model: nn.Module, image_size: int, class_names: list[str]) -> None:
        super().__init__()
        self.name, self.image_size, self.class_names = name, image_size, class_names
        self.model: Any = model.eval().requires_grad_(False)
        if self.num_classes == 0:
            reading.classifier_rows(model, name)
        if self.num_classes == 1:
            raise TargetError(
                f"{name} has a single logit, whose softmax is always 1; give it two, e.g. the rows 0 and w of the head"
            )
        if self.num_classes != len(class_names):
            raise TargetError(f"{name} has {self.num_classes} classes, {len(class_names)} names are given")
        config: Any = self.model.pretrained_cfg
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
        return reading.prefix_tokens(self.model)

    @property
    def num_class_tokens(self) -> int:
        """Class and distillation tokens: the prefix tokens that are no registers."""
        return reading.class_tokens(self.model)

    @property
    def classifier_weight(self) -> Float[Tensor, "Y D"]:
        """Rows w_c of the linear head. Raises TargetError for other heads; see `reading.classifier_rows`."""
        return reading.classifier_rows(self.model, self.name)

    def normalise(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        return (x - self.mean) / self.std

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B Y"]:
        """Logits of images in [0, 1]."""
        return self.model(self.normalise(x))

    def probabilities(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B Y"]:
        """softmax(logits) in float32."""
        return self(x).float().softmax(dim=-1)

    def class_rows(
        self, classes: Int[Tensor, "B"], logits: Float[Tensor, "B Y"], contrast: float
    ) -> Float[Tensor, "B D"]:
        """What speaks for each class: rows of the classifier's weight, see `contrast_rows`."""
        return contrast_rows(self.classifier_weight, classes, logits, contrast)

    def features(self, x: Float[Tensor, "B 3 H W"], depths: tuple[float, ...]) -> TargetFeatures:
        """One forward pass: logits, feature maps at the given depths (0 = first level, 1 = last), final feature map.

        Without depths the logits alone, which every classifier has.
        """
        if not depths:
            return TargetFeatures(self(x), (), None)
        with evidence.captured_qkv(self.model) as captured:
            levels, last, final = reading.read_levels(self.model, self.normalise(x), depths, self.name)
        logits = self.model.forward_head(final)
        attention = evidence.class_attention(self.model, captured) if captured else None
        return TargetFeatures(logits, levels, reading.position_vectors(self.model, final, last), attention)

    def class_evidence(self, features: TargetFeatures, rows: Float[Tensor, "B D"]) -> Float[Tensor, "B K h w"] | None:
        """What the class token's heads gather from each patch for classes of the given rows (`class_rows`).

        None in models without class tokens; see `aha_core.classifiers.evidence`.
        """
        if features.attention is None or features.final is None:
            return None
        readouts = evidence.head_readouts(self.model, rows)
        height, width = features.final.shape[2:]
        return evidence.evidence_channels(features.attention, readouts, (height, width))

    @torch.no_grad()
    def probe(self, depths: tuple[float, ...]) -> TargetFeatures:
        """`features` of one black image, to learn their shapes.

        Raises TargetError, with the reason and a remedy, when the model cannot give them.
        """
        x = torch.zeros(1, 3, self.image_size, self.image_size, device=self.mean.device)
        try:
            features = self.features(x, depths)
        except (TargetError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a model of unforeseen shape does inside timm
            raise TargetError(
                f"cannot read the features of {self.name} at {self.image_size} px ({type(error).__name__}: {error}); "
                f"{reading.OTHER_WAY}"
            ) from error
        if features.logits.shape[1:] != (self.num_classes,):
            raise TargetError(
                f"{self.name} gives outputs of shape {tuple(features.logits.shape)} for {self.num_classes} classes"
            )
        return features

    def folded(self) -> Target:
        """The same function with its batch norms inside its convolutions, for many passes; itself where it has none.

        It is a copy: what later happens to one of them does not happen to the other.
        """
        source = torch.Generator().manual_seed(0)
        x = torch.rand((2, 3, self.image_size, self.image_size), generator=source).to(self.mean.device)
        model = fold_batch_norms(self.model, self.normalise(x))
        if model is self.model:
            return self
        folded = Target(self.name, model, self.image_size, self.class_names)
        folded.set_normalisation(*self.normalisation)
        return folded.to(self.mean.device)

    def save(self, folder: Path, extra: dict[str, Any] | None = None) -> None:
        """Write model.safetensors and target.json, each whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        atomic_safetensors(folder / "model.safetensors", self.model.state_dict())
        atomic_json(folder / "target.json", self.facts() | (extra or {}))

    def facts(self) -> dict[str, Any]:
        """What rebuilds it, beside the weights."""
        facts: dict[str, Any] = {"name": self.name, "image_size": self.image_size, "class_names": self.class_names}
        facts |= {name: getattr(self, name).flatten().tolist() for name in ("mean", "std")}
        zero_shot = zero_shot_facts(self.model)
        return facts | ({"zero_shot": zero_shot} if zero_shot else {})

    @classmethod
    def load(cls, folder: Path) -> Target:
        """Read what `save` wrote. Raises TargetError when files are missing or do not match."""
        facts_file = folder / "target.json"
        if not facts_file.is_file():
            raise TargetError(f"no target in {folder}; run `aha target` first")
        facts = json.loads(facts_file.read_text())
        file = folder / "model.safetensors"
        return cls.rebuild(facts, read_weights(file, facts["name"]), file.name)

    @classmethod
    def rebuild(cls, facts: dict[str, Any], state: dict[str, Tensor], source: str) -> Target:
        """From `facts` and weights, which came from `source`. Raises TargetError where they do not fit."""
        name, size, classes = facts["name"], facts["image_size"], len(facts["class_names"])
        if "zero_shot" in facts:
            model = rebuild_zero_shot(name, size, classes, facts["zero_shot"])
        else:
            model = create_model(name, classes, size)
        load_state(model, state, source, name)
        target = cls(name, model, size, facts["class_names"])
        target.set_normalisation(facts["mean"], facts["std"])
        return target

    @property
    def normalisation(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation by channel."""
        return self.mean.flatten().tolist(), self.std.flatten().tolist()

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Mean and standard deviation by channel instead of those of the model's `pretrained_cfg`."""
        for name, values in (("mean", mean), ("std", std)):
            setattr(self, name, torch.tensor(list(values), dtype=torch.float32, device=self.mean.device).view(3, 1, 1))

    @torch.no_grad()
    def check_rebuilds(self) -> None:
        """Raise TargetError where `load` would read another function than this one: a model that was built with
        arguments of `timm.create_model` which neither its name nor its weights tell.
        """
        source = torch.Generator().manual_seed(0)
        x = torch.rand((1, 3, self.image_size, self.image_size), generator=source).to(self.mean.device)
        again = Target.rebuild(self.facts(), self.model.state_dict(), "the model in memory").to(self.mean.device)
        own, rebuilt = self(x).float(), again(x).float()
        if not torch.allclose(own, rebuilt, rtol=1e-2, atol=1e-3 * float(own.abs().max())):
            raise TargetError(
                f"{self.name} was built with arguments of timm.create_model that its name and weights do not tell: "
                f"logits of what would be read back differ by {float((own - rebuilt).abs().max()):.2g}; keep the "
                "model, and build the explainer by Explainer.for_model in each process"
            )


def contrast_rows(
    weight: Float[Tensor, "Y D"], classes: Int[Tensor, "B"], logits: Float[Tensor, "B Y"], contrast: float
) -> Float[Tensor, "B D"]:
    """r_c = w_c - beta (1 - p_c / max p) sum_{k != c} q_k w_k, scaled to unit root-mean-square.

    A softmax probability also rises when another class loses: with h the classifier's input and p_c its probability,

        d log p_c / dh = (1 - p_c) (w_c - sum_{k != c} q_k w_k),        q_k = p_k / (1 - p_c)

    The sum is what c competes with on this image. The further c is behind the predicted class, the more of it is
    subtracted; the predicted class keeps its own row.

    Args:
        weight: rows w of the classifier.
        classes: c of each image.
        logits: of the images.
        contrast: beta in [0, 1].
    """
    rows = weight[classes].float()
    if contrast:
        logits = logits.float()
        own = torch.arange(weight.shape[0], device=logits.device) == classes[:, None]
        others = logits.masked_fill(own, torch.finfo(logits.dtype).min).softmax(dim=1)
        behind = 1 - (logits.gather(1, classes[:, None]) - logits.amax(dim=1, keepdim=True)).exp()
        rows = rows - contrast * behind * (others @ weight.float())
    return rows * torch.rsqrt(rows.square().mean(dim=-1, keepdim=True) + 1e-12)


@contextmanager
def plain_attention(model: nn.Module, active: bool) -> Iterator[None]:
    """While active, attention as two products and a softmax instead of the fused kernel; restores the model."""
    fused: list[Any] = [one for one in model.modules() if getattr(one, "fused_attn", False)] if active else []
    try:
        for one in fused:
            one.fused_attn = False
        yield
    finally:
        for one in fused:
            one.fused_attn = True
