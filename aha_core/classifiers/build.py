"""Building a timm model by its name and loading safetensors into it, with errors that a user can act on."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from aha_core.classifiers import convstem_mini  # noqa: F401 (registers its model with timm)
from aha_core.classifiers.patches import project_patches
from aha_core.errors import TargetError


def create_model(
    name: str, num_classes: int, image_size: int, pretrained: bool = False, section: str = "target"
) -> nn.Module:
    """timm.create_model for square inputs; convolutional ones channels-last, which is faster (`aha bench passes`);
    patch embeddings are matrix products (`PatchProjection`).

    Args:
        name: timm model name, with or without a tag of weights.
        num_classes: logits; 0 builds the tower without a classifier.
        image_size: side of the input, pixels.
        pretrained: download or read timm's weights.
        section: of the parameters that name the model, for messages.

    Raises:
        TargetError: an unknown name (with near names), what timm cannot build or download, an image size that leaves
            pixels outside every patch.
    """
    known_name(name, section)
    if pretrained and num_classes:
        _has_classes(name, num_classes, section)
    settings = {"pretrained": pretrained, "num_classes": num_classes}
    try:
        try:
            model = timm.create_model(name, img_size=image_size, **settings)
        except TypeError:  # convolutional models take any size and have no such argument
            model = timm.create_model(name, **settings)
    except TargetError:
        raise
    except Exception as error:  # timm, the hub client and torch raise many kinds
        source = "could not download or load the pretrained weights of" if pretrained else "could not build"
        local = "--target-weights FILE" if section == "--target" else f"{section}.source: checkpoint with a local file"
        hint = f"; without a network use {local}" if pretrained else ""
        raise TargetError(f"timm {source} {name!r}: {error}{hint}") from error
    _whole_patches(model, name, image_size)
    if not getattr(model, "num_prefix_tokens", 0):
        model.to(memory_format=torch.channels_last)
    project_patches(model)
    return model


def known_name(name: str, section: str) -> None:
    """Raises TargetError with near names when timm has no such model, or no weights of that tag."""
    try:
        if timm.is_model(name.split(".")[0]):
            timm.get_pretrained_cfg(name)
            return
        what = "is not a timm model"
    except RuntimeError:
        what = "has a tag that timm does not know"
    near = difflib.get_close_matches(name, [*timm.list_models(), *timm.list_pretrained()], n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else "; timm.list_models() lists the names"
    raise TargetError(f"{section if section.startswith('--') else f'{section}.name'} = {name!r} {what}{hint}")


def _has_classes(name: str, num_classes: int, section: str) -> None:
    """timm replaces a classifier of another size by random weights without a word."""
    config: Any = timm.get_pretrained_cfg(name)
    own = num_classes if config is None or config.num_classes is None else config.num_classes
    if own == num_classes:
        return
    what = f"a classifier of {own} classes" if own else "no classifier: they are a tower of features"
    raise TargetError(
        f"timm's weights {section}.name = {name!r} have {what}, not of {num_classes}; use a tag that ends in ft_in1k "
        f"or in1k (timm.list_pretrained('{name.split('.')[0]}*')), or class embeddings in target.zero_shot.embeddings"
    )


def _whole_patches(model: Any, name: str, image_size: int) -> None:
    """Unpadded patches of side k at stride s cover (S - k) // s * s + k pixels of a side; the rest is never seen."""
    embed = getattr(model, "patch_embed", None)
    projection = getattr(embed, "proj", None)
    if not isinstance(projection, nn.Conv2d) or getattr(embed, "dynamic_img_pad", False):
        return
    for kernel, stride, padding in zip(
        projection.kernel_size, projection.stride, _sides(projection.padding), strict=True
    ):
        unseen = (image_size - kernel) % stride if image_size >= kernel else image_size
        if unseen and padding == 0:
            lower = image_size - unseen or kernel
            raise TargetError(
                f"image_size = {image_size} does not fit the {kernel} px patches of {name}: the last {unseen} "
                f"pixels of a side would never be seen; use {lower} or {lower + stride}"
            )


def _sides(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    return (1, 1) if isinstance(padding, str) else padding


def read_weights(file: Path, name: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises TargetError when it is missing or unreadable."""
    if not file.is_file():
        raise TargetError(f"no checkpoint at {file} for {name}")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise TargetError(f"{file.name} is not a readable safetensors file: {error}") from error


def count_classes(state: dict[str, Tensor], name: str) -> int | None:
    """Rows of the classifier's weight in the tensors of that architecture; None where they have no classifier."""
    config: Any = timm.get_pretrained_cfg(name)
    place = getattr(config, "classifier", None) or "head"
    weight = state.get(f"{place if isinstance(place, str) else place[0]}.weight")
    return None if weight is None else len(weight)


def load_weights(model: nn.Module, file: Path, name: str) -> None:
    """Strict load of a safetensors file.

    Raises TargetError naming missing, unexpected and mis-shaped keys.
    """
    load_state(model, read_weights(file, name), file.name, name)


def load_state(model: nn.Module, state: dict[str, Tensor], source: str, name: str) -> None:
    """Strict load of tensors that came from `source`; see `load_weights`."""
    own = model.state_dict()
    shapes = {
        key: f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape
    }
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": list(shapes.values()),
    }
    found = [
        f"{len(keys)} keys {kind} ({', '.join(keys[:4])}{', …' if len(keys) > 4 else ''})"
        for kind, keys in problems.items()
        if keys
    ]
    if found:
        positions = any("pos_embed" in key or "relative_position" in key for key in shapes)
        hint = "; position embeddings belong to one input size: set the image_size to the file's"
        raise TargetError(f"{source} does not fit {name}: {'; '.join(found)}{hint if positions else ''}")
    model.load_state_dict(state)
