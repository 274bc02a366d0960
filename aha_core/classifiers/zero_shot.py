"""A zero-shot classifier: an image tower of timm and a matrix of class embeddings (CLIP, Radford et al., 2021).

    logit_c = <e / |e|, t_c / |t_c|> / temperature,      e = P h (+ b), or h itself in towers without projection

with the tower's pooled vector h. In the space of h the row of class c is w_c = P^T t_c / |t_c|, so that everything that
reads a linear classifier's rows works here too: <h, w_c> is the cosine up to the length of e and the constant <b, t_c>.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from aha_core.classifiers.build import create_model, known_name, load_state, read_weights
from aha_core.errors import TargetError


class CosineHead(nn.Module):
    """The tower's projection and the cosine with each class embedding.

    Args:
        projection: the tower's own linear layer, or nn.Identity.
        embeddings: one row for each class, of any length above 0.
        temperature: divides the cosines; 0.01 in CLIP.
    """

    embeddings: Tensor

    def __init__(self, projection: nn.Module, embeddings: Float[Tensor, "Y E"], temperature: float) -> None:
        super().__init__()
        self.projection, self.temperature = projection, temperature
        self.register_buffer("embeddings", F.normalize(embeddings.float(), dim=1))

    def forward(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B Y"]:
        return F.normalize(self.projection(h), dim=-1) @ self.embeddings.T / self.temperature

    @property
    def weight(self) -> Float[Tensor, "Y D"]:
        """Rows w_c in the space of the tower's pooled vector."""
        matrix = getattr(self.projection, "weight", None)
        return self.embeddings if matrix is None else self.embeddings @ matrix


def read_embeddings(file: Path) -> tuple[Float[Tensor, "Y E"], list[str] | None]:
    """The matrix of a safetensors file that holds nothing else, and its metadata's `class_names` (a JSON list).

    Raises TargetError when the file holds something else.
    """
    tensors = read_weights(file, "target.zero_shot.embeddings")
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    if len(shapes) != 1 or len(next(iter(shapes.values()))) != 2:
        raise TargetError(f"{file.name} must hold one matrix (classes, embedding length), it holds {shapes}")
    with safe_open(file, "pt") as opened:
        names = (opened.metadata() or {}).get("class_names")
    (matrix,) = tensors.values()
    listed = json.loads(names) if names else None
    if listed is not None and len(listed) != len(matrix):
        raise TargetError(f"{file.name} has {len(matrix)} embeddings and {len(listed)} class_names")
    return matrix, listed


def attach_zero_shot(model: Any, name: str, embeddings: Float[Tensor, "Y E"], temperature: float) -> None:
    """Put a `CosineHead` in the place of the classifier; what was there becomes the projection.

    Raises TargetError when the tower's vectors have another length than the embeddings.
    """
    place = model.pretrained_cfg.get("classifier")
    if not isinstance(place, str):
        raise TargetError(f"{name} has no single classifier ({place}) to replace by class embeddings; use a CLIP tower")
    projection = model.get_submodule(place)
    length = getattr(projection, "out_features", None) or model.head_hidden_size
    if length != embeddings.shape[1]:
        raise TargetError(
            f"the class embeddings have {embeddings.shape[1]} numbers, the vectors of {name} have {length}; "
            "use the embeddings of the text tower that was trained with it"
        )
    model.set_submodule(place, CosineHead(projection, embeddings, temperature))
    model.num_classes = len(embeddings)


def create_zero_shot(
    name: str, image_size: int, embeddings: Float[Tensor, "Y E"], temperature: float, checkpoint: Path | None
) -> nn.Module:
    """A tower with its weights and a zero-shot head.

    Args:
        checkpoint: safetensors file of the tower, its projection included; timm's weights where None.

    Raises:
        TargetError: what `create_model`, `load_weights` and `attach_zero_shot` say.
    """
    known_name(name, "target")
    config: Any = timm.get_pretrained_cfg(name)
    length = embeddings.shape[1]
    if checkpoint is None:
        projection = length if config is not None and config.num_classes == length else 0
        model = create_model(name, projection, image_size, pretrained=True)
    else:
        state = read_weights(checkpoint, name)
        weight = state.get(f"{config.classifier}.weight" if config is not None else "head.weight")
        model = create_model(name, 0 if weight is None else len(weight), image_size)
        load_state(model, state, checkpoint.name, name)
    attach_zero_shot(model, name, embeddings, temperature)
    return model


def zero_shot_facts(model: Any) -> dict[str, Any] | None:
    """What `rebuild_zero_shot` needs besides the weights; None for other classifiers."""
    head = model.get_classifier()
    if not isinstance(head, CosineHead):
        return None
    return {
        "temperature": head.temperature,
        "embedding": head.embeddings.shape[1],
        "projection": getattr(head.projection, "out_features", 0),
    }


def rebuild_zero_shot(name: str, image_size: int, classes: int, facts: dict[str, Any]) -> nn.Module:
    """The architecture with empty embeddings, for weights that were saved with it."""
    model = create_model(name, facts["projection"], image_size)
    attach_zero_shot(model, name, torch.zeros(classes, facts["embedding"]), facts["temperature"])
    return model
