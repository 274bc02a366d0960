"""The public API: a trained explainer with its frozen target, in captum's conventions.

>>> maps = explainer.attribute(images)  # (B, 1, S, S): one pass, the predicted class of each image
>>> tuple(maps.shape)
(2, 1, 32, 32)
>>> maps = explainer.attribute(images, target=3, steps=2)  # class 3, two refinement steps
>>> maps = explainer.attribute(images, hybrid=True)  # corrected by one gradient of the target
>>> maps = explainer.attribute(images, **explainer.within(passes=200))  # as good as 200 passes of the target allow
>>> same = explainer.attribute(normalised, normalised=True)  # as the classifier itself takes them
>>> bool(torch.allclose(same, explainer.attribute(images), atol=1e-3))
True

Here `explainer` is `Explainer.load("outputs")`, or `Explainer.for_model(model, explainer="outputs")` around a timm
model that is already there; `images` are (B, 3, S, S) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aha_core import sources
from aha_core.budget import within
from aha_core.changes import DecoderWeights
from aha_core.config import RefineConfig, load_params
from aha_core.errors import AttributionError
from aha_core.explainer import ExplainerNetwork
from aha_core.explainer.model import CONTRAST, explain
from aha_core.explainer.storage import Training, fitted, load_explainer, save_explainer
from aha_core.hybrid import hybrid_maps
from aha_core.inputs import Classes, In, check_gradients, like, parts, read_classes, read_images, read_maps
from aha_core.masked_passes import MaskedPasses
from aha_core.ranking import standardise
from aha_core.refinement import DEFAULT_REFINEMENT, Refinement, refine
from aha_core.targets import Target, TargetFeatures


class Explainer:
    """Maps of a frozen target in one pass, their correction by one gradient, and their refinement.

    Args:
        target: the classifier.
        network: the trained explainer.
        training: how it was trained; refinement uses the same ranking, perturbations and seed.
        refinement: settings of the gradient steps and of the hybrid map; the number of steps is an argument of
            each call.
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
        self.model: nn.Module = target.model  # what `for_model` was given

    @classmethod
    def load(
        cls,
        source: Path | str,
        target: Target | Path | str | None = None,
        refinement: RefineConfig | None = None,
        memory_gb: float = 1.0,
    ) -> Explainer:
        """Read an explainer and its target.

        Args:
            source: a folder of `aha train` or `save`, the name of one in $AHA_EXPLAINERS, or of one that comes with
                the library (`sources.locate`).
            target: the classifier or its folder; where None the one beside the explainer, or for one of the library's
                timm's weights.
            refinement: where None that of the library's explainer, and `DEFAULT_REFINEMENT` for every other one.

        Raises:
            TargetError, AttributionError: files are missing or do not fit together.
        """
        folder, beside = sources.locate(source)
        shipped = sources.shipped_target(folder)
        if target is None and beside is None and shipped:
            target = sources.pretrained_target(shipped)
        if target is None and beside is None:
            raise AttributionError(f"no target beside the explainer in {folder}; give its folder: load(source, target)")
        loaded = target if isinstance(target, Target) else Target.load(Path(target or beside or ""))
        network, training = load_explainer(folder, loaded)
        if refinement is None:
            refinement = load_params(folder / sources.PARAMS).refine if shipped else DEFAULT_REFINEMENT
        return cls(loaded, network, training, refinement, memory_gb)

    def save(self, folder: Path | str) -> None:
        """Write explainer and target into one folder, which `load` reads.

        Raises TargetError, before anything is written, for a target that its name and weights do not bring back.
        """
        self.target.check_rebuilds()
        save_explainer(Path(folder) / sources.EXPLAINER, self.network, self.training)
        self.target.save(Path(folder) / sources.TARGET)

    @classmethod
    def for_model(
        cls,
        model: nn.Module,
        explainer: Explainer | Path | str,
        *,
        class_names: Sequence[str] | None = None,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Explainer:
        """An explainer around a timm model that is already there: the same weights in memory, nothing of it changed.

        Args:
            explainer: one that was trained for this model, or for one of the same architecture, or where `load` finds
                one.
            class_names: in the order of the logits; the explainer's target's where they fit, else numbers.
            image_size: side of the input, pixels; what the model was built for where None.
            mean: of the normalisation that the model expects, by channel; the model's `pretrained_cfg` where None.
            std: likewise.

        Raises:
            TargetError: not a timm model. AttributionError: the explainer does not fit it.
        """
        trained = explainer if isinstance(explainer, Explainer) else None
        known = trained.target.class_names if trained else sources.class_names(str(explainer))
        if class_names is None and len(known) == getattr(model, "num_classes", None):
            class_names = known
        ready = model if isinstance(model, Target) else None
        target = ready or sources.wrap_model(model, class_names, image_size, mean, std)
        if trained is None:
            made = cls.load(str(explainer), target)
        else:
            network = fitted(trained.network, trained.training, target)
            made = cls(target, network, trained.training, trained.refinement, trained.passes.memory_gb)
        made.model = model
        return made.to(target.mean.device)

    @property
    def device(self) -> torch.device:
        return self.target.mean.device

    def to(self, device: torch.device | str) -> Explainer:
        self.target.to(device)
        self.network.to(device)
        return self

    @torch.no_grad()
    def attribute(
        self,
        inputs: In,
        target: Classes | None = None,
        steps: int = 0,
        *,
        hybrid: bool = False,
        normalised: bool = False,
        channels: Literal[1, 3] = 1,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
    ) -> In:
        """Importance of every pixel for the class; larger = more important.

        Args:
            inputs: images at the target's input size, never changed; as in captum a tuple of one tensor gives a tuple.
            target: class indices, or one for all images; the predicted class where None.
            steps: refinement steps T.
            hybrid: one masked pass of the target and its gradient correct the map (`aha_core.hybrid`); refinement
                begins with that anyway, unless its settings say otherwise.
            normalised: inputs are (x - mean) / std with the target's mean and std, not images in [0, 1].
            channels: 3 repeats the map over the colours: the inputs' shape, which `captum.metrics.infidelity` wants.
            internal_batch_size: most images in a pass; all together where None.
            show_progress: a bar on the terminal, for several passes.

        Returns:
            Detached maps on the inputs' device, of their type; mean 0 and standard deviation 1 per image before
            refinement: positive = more important than the image's average pixel.

        Raises:
            AttributionError: wrong image shape or range, class index or number of classes; `steps` or `hybrid` under
                `torch.inference_mode`.
        """
        x = read_images(inputs, self.target, normalised)
        classes = None if target is None else read_classes(target, self.target, len(x))
        maps = []
        for part in parts(len(x), internal_batch_size, show_progress):
            features = self.features(x[part])
            own = features.logits.argmax(dim=1) if classes is None else classes[part]
            maps.append(self.maps(x[part], features, own[None], steps, hybrid)[0])
        return like(torch.cat(maps).expand(-1, channels, -1, -1), inputs)

    @torch.no_grad()
    def contrast(
        self,
        inputs: In,
        target: Classes | None,
        against: Classes,
        steps: int = 0,
        *,
        hybrid: bool = False,
        normalised: bool = False,
    ) -> In:
        """C = z(A_c) - z(A_d), with z = (A - mean) / std per image: what speaks for class c rather than for d.

        Arguments, result and errors as in `attribute`; `against` is d. Both classes share one pass of the target, and
        both maps are of the class's own row, because d is subtracted as a map.
        """
        x = read_images(inputs, self.target, normalised)
        features = self.features(x)
        wanted = features.logits.argmax(dim=1) if target is None else read_classes(target, self.target, len(x))
        both = torch.stack([wanted, read_classes(against, self.target, len(x))])
        pair = self.maps(x, features, both, steps, hybrid, contrast=0.0)
        return like(contrast_maps(pair), inputs)

    def refine(
        self, inputs: Tensor, maps: Float[Tensor, "B 1 H W"], target: Classes, steps: int, *,
        normalised: bool = False, contrast: float = CONTRAST,
    ) -> Refinement:  # fmt: skip
        """All maps of `steps` gradient steps from the given ones (`aha_core.refinement`), on the explainer's device.

        Args:
            maps: from `attribute`, or any other method's.
            contrast: as in `maps`, of the network that `change: decoder` starts from.

        Raises AttributionError as `maps` does, and for maps of another shape.
        """
        check_gradients(steps)
        x = read_images(inputs, self.target, normalised)
        config = self.refinement.model_copy(update={"steps": steps})
        how, classes = self.training, read_classes(target, self.target, len(x))
        start, change = read_maps(maps, x), None
        if config.change == "decoder":
            read = self.network.inputs(self.target, x, self.features(x), classes, contrast)
            change = DecoderWeights(self.network, read, len(x))
        with torch.enable_grad():
            return refine(self.passes, x, start, classes, config, how.ranking, how.perturbation, how.seed, change)

    def within(self, passes: int) -> dict[str, Any]:
        """`steps` and `hybrid` of a map for at most so many passes of the target, a backward pass counting as two.

        Raises AttributionError for fewer than one.
        """
        steps, hybrid = within(self.refinement, passes)
        return {"steps": steps, "hybrid": hybrid}

    @torch.no_grad()
    def features(self, x: Float[Tensor, "B 3 H W"]) -> TargetFeatures:
        """The target's one pass over images in [0, 1] on the explainer's device: logits and what `maps` needs."""
        return self.target.features(x, self.training.explainer.levels)

    @torch.no_grad()
    def maps(
        self, x: Float[Tensor, "B 3 H W"], features: TargetFeatures, classes: Int[Tensor, "K B"], steps: int = 0,
        hybrid: bool = False, contrast: float = CONTRAST,
    ) -> Float[Tensor, "K B 1 H W"]:  # fmt: skip
        """Maps of K classes of each image from one pass of the target; contrast: see `targets.contrast_rows`.

        Raises AttributionError for maps that need gradients under `torch.inference_mode`, which has none, and for
        fewer steps than none.
        """
        if hybrid or steps:
            check_gradients(steps)
        count = len(classes)
        wide, flat = x if count == 1 else x.repeat(count, 1, 1, 1), classes.flatten()
        maps = standardise(explain(self.network, self.target, wide, features.repeat(count), flat, contrast))
        if hybrid and not (steps and self.refinement.hybrid):  # refinement begins with it
            how, perturbation = self.refinement, self.training.perturbation
            maps = hybrid_maps(self.passes, wide, maps, flat, perturbation, how.grid, how.hybrid_weight)
        if steps:
            maps = self.refine(wide, maps, flat, steps, contrast=contrast).maps[-1]
        return maps.unflatten(0, (count, len(x)))

    def explain_func(
        self, model: nn.Module, inputs: Any, targets: Any, normalised: bool = True, steps: int = 0, **_: Any
    ) -> np.ndarray:
        """What quantus' metrics call: arrays in, an array of maps out. They hand over a timm model, whose inputs are
        normalised; another one than this explainer's, e.g. with randomised weights, is explained by itself.
        """
        own = model is self.model or model is self.target or model is self.target.model
        size, (mean, std) = self.target.image_size, self.target.normalisation
        explainer = self if own else Explainer.for_model(model, self, image_size=size, mean=mean, std=std)
        images, classes = torch.as_tensor(np.asarray(inputs, np.float32)), torch.as_tensor(np.asarray(targets))
        return np.asarray(explainer.attribute(images, classes, steps, normalised=normalised))


def contrast_maps(pair: Float[Tensor, "2 B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """z(A_c) - z(A_d)."""
    return standardise(pair[0]) - standardise(pair[1])
