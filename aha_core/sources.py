"""Where an explainer and its target come from: folders, names, a timm model that the user already has.

A folder of an explainer holds explainer.json; its target is looked for beside it. `Explainer.save` writes both into
one folder, the layout of the pipeline's `outputs` and of the model that MLflow keeps:

    FOLDER/explainer/explainer.json, explainer.safetensors          FOLDER/target/target.json, model.safetensors

Explainers that come with the library are in `aha_core/pretrained`, each under timm's name of its target's weights, with
the parameters of their profile.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from torch import nn

from aha_core.classifiers.build import create_model, known_name
from aha_core.classifiers.patches import project_patches
from aha_core.data.labels import imagenet_class_names
from aha_core.errors import AttributionError, TargetError
from aha_core.targets import Target

NAMES = "AHA_EXPLAINERS"  # environment variable: the folder in which a name is looked up
EXPLAINER, TARGET = "explainer", "target"
SHIPPED = Path(__file__).parent / "pretrained"
PARAMS = "params.yaml"  # of the profile, beside an explainer of the library
DEFAULT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def locate(source: Path | str) -> tuple[Path, Path | None]:
    """The explainer's folder and, where there is one beside it, its target's.

    Args:
        source: a folder with explainer.json, a folder with `explainer` and `target` in it, the name of such a folder
            in $AHA_EXPLAINERS, or the name of an explainer that comes with the library.

    Raises AttributionError when there is no explainer.
    """
    folder = Path(source).expanduser()
    shelf = os.environ.get(NAMES)
    if not folder.is_dir() and folder.name == str(source) and shelf:
        folder = Path(shelf).expanduser() / folder.name
    if not folder.is_dir() and (SHIPPED / str(source)).is_dir():
        folder = SHIPPED / str(source)
    for explainer, target in ((folder, folder.parent / TARGET), (folder / EXPLAINER, folder / TARGET)):
        if (explainer / "explainer.json").is_file():
            return explainer, target if (target / "target.json").is_file() else None
    raise AttributionError(f"no explainer in {folder}; run `aha train` first{_names(shelf)}")


def class_names(source: Path | str) -> list[str]:
    """Those of the target beside an explainer; none where there is none. Raises AttributionError as `locate` does."""
    _, target = locate(source)
    return list(json.loads((target / "target.json").read_text())["class_names"]) if target else []


def shipped_names() -> list[str]:
    """Names of the explainers that come with the library: timm's, of their targets' weights."""
    return sorted(folder.name for folder in SHIPPED.iterdir() if (folder / "explainer.json").is_file())


def shipped_target(explainer: Path) -> str | None:
    """timm's name of the weights that an explainer of the library explains; None for every other folder."""
    return explainer.name if explainer.parent == SHIPPED else None


def pretrained_target(name: str) -> Target:
    """timm's weights of that name, at the size they are for. Raises TargetError when they cannot be had."""
    size, classes = pretrained_facts(name)
    names = imagenet_class_names() if classes == len(imagenet_class_names()) else [str(one) for one in range(classes)]
    return Target(name, create_model(name, classes, size, pretrained=True, section="--target"), size, names)


def pretrained_facts(name: str) -> tuple[int, int]:
    """Side of the input in pixels and number of classes of timm's weights of that name.

    Raises TargetError when timm has no such weights.
    """
    known_name(name, "--target")
    config: Any = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    return int(config.input_size[-1]), int(config.num_classes)


def _names(shelf: str | None) -> str:
    if not shelf:
        return f", or name a folder in ${NAMES}, or {', '.join(shipped_names())}"
    found = sorted(one.parent.parent.name for one in Path(shelf).expanduser().glob("*/explainer/explainer.json"))
    return f", or name one of those in ${NAMES}: {', '.join(found) or 'none there'}"


def wrap_model(
    model: nn.Module,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Target:
    """A target around a user's own timm model; its mode and `requires_grad` stay as they are.

    Args:
        class_names: in the order of the logits; numbers where None.
        image_size: side of the input, pixels; what the model was built for where None.
        mean, std: of the normalisation that the model expects, by channel; the model's `pretrained_cfg` where None.

    Raises TargetError for a module that timm did not build, and what `Target` raises.
    """
    config: Any = getattr(model, "pretrained_cfg", None)
    if not config or not hasattr(model, "num_classes"):
        raise TargetError(
            f"{type(model).__name__} is no timm model; give the module that timm.create_model returned, without "
            "wrappers (normalisation: the mean and std arguments)"
        )
    names = list(class_names) if class_names is not None else [str(index) for index in range(int(model.num_classes))]  # type: ignore[arg-type]
    target = Target(config["architecture"], frozen_view(model), image_size or built_for(model), names)
    own = target.facts()
    target.set_normalisation(own["mean"] if mean is None else mean, own["std"] if std is None else std)
    return target.to(next(model.parameters()).device)


def frozen_view(model: nn.Module) -> nn.Module:
    """The same module tree over the same memory, in evaluation mode and without gradients.

    Training the given model in place therefore changes the view, and the view changes nothing of the given model.
    Moving either to another device separates them.
    """
    shared: dict[int, Any] = {id(one): nn.Parameter(one.detach(), requires_grad=False) for one in model.parameters()}
    shared |= {id(one): one.detach() for one in model.buffers()}
    view = copy.deepcopy(model, shared).eval()
    project_patches(view)
    return view


def built_for(model: Any) -> int:
    """Side of the square input that a timm model was built for, pixels. Raises TargetError for oblong ones."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or model.pretrained_cfg["input_size"][1:]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise TargetError(f"the model was built for {height} x {width} pixels; AHA explains square inputs")
    return int(height)
