"""Reading a timm model: its tokens, feature levels and classifier rows, whatever its family.

What differs between families is read from the model itself: class, distillation and register tokens before the patches;
token, channels-last or channels-first features; layers between the last feature and the classifier (a norm, a
1x1 convolution, attention pooling). The last are covered by one rule: the classifier's input vector h of a position is
what `forward_head(..., pre_logits=True)` gives for an image that consists of this position alone, so that the logit
lens <h, w_c> is exact for every head that is linear after its pooling.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aha_core.errors import TargetError

OTHER_WAY = (
    "use explainer.kind: dpt, which needs only its logits, or another target.name, e.g. one of timm's vit_*, swin_*, "
    "convnext_*, resnet* or efficientnet_*"
)


def prefix_tokens(model: Any) -> int:
    """Tokens before the patch tokens (class, distillation, registers); 0 for models without them."""
    return int(getattr(model, "num_prefix_tokens", 0))


def class_tokens(model: Any) -> int:
    """Those of the prefix tokens that classify: the class token and DeiT's distillation token, no registers."""
    own = sum(isinstance(getattr(model, name, None), nn.Parameter) for name in ("cls_token", "dist_token"))
    return min(own, prefix_tokens(model))


def pools_class_tokens(model: Any) -> bool:
    """Whether the classifier reads the class tokens, and not a pool of the patches."""
    return class_tokens(model) > 0 and getattr(model, "global_pool", "token") == "token"


def level_indices(model: Any, depths: tuple[float, ...]) -> list[int]:
    """Feature levels nearest to the given depths (0 = first, 1 = last)."""
    count = len(getattr(model, "feature_info", ()))
    return [round(depth * (count - 1)) for depth in depths]


def read_levels(
    model: Any, x: Float[Tensor, "B 3 H W"], depths: tuple[float, ...], name: str
) -> tuple[tuple[Float[Tensor, "B _ _ _"], ...], Float[Tensor, "B D h w"], Tensor]:
    """One forward pass over normalised images.

    Returns:
        Feature maps at the given depths; the last feature map; what `forward_features` gives (for `forward_head`).

    Raises:
        TargetError: the model gives no feature maps, or several for one level.
    """
    last = len(getattr(model, "feature_info", ())) - 1
    if last < 0 or not hasattr(model, "forward_intermediates"):
        raise TargetError(f"{name} has no intermediate features that timm can return; {OTHER_WAY}")
    indices = level_indices(model, depths)
    wanted = sorted({*indices, last})
    final, maps = model.forward_intermediates(x, indices=wanted, output_fmt="NCHW")
    if not isinstance(final, Tensor) or not all(isinstance(one, Tensor) and one.ndim == 4 for one in maps):
        raise TargetError(f"{name} has several token grids side by side and no feature map of a level; {OTHER_WAY}")
    by_index = dict(zip(wanted, maps, strict=True))
    return tuple(by_index[index] for index in indices), by_index[last], final


def position_vectors(model: Any, final: Tensor, last: Float[Tensor, "B K h w"]) -> Float[Tensor, "B D h2 w2"]:
    """The classifier's input vector of every position: `forward_head(..., pre_logits=True)` of that position alone.

    Args:
        final: what `forward_features` gives: tokens (B, N, C), maps (B, C, h, w), or (B, h, w, C) in models whose
            `output_fmt` is NHWC.
        last: the last feature map; it tells the grid of the tokens, and stands for them in models that keep only their
            class tokens to the end.
    """
    if final.ndim == 3:
        height, width = last.shape[-2:]
        prefix = final.shape[1] - height * width
        positions = final[:, prefix:] if prefix >= 0 else last.flatten(2).transpose(1, 2)
        tokens = prefix + 1 if prefix >= 0 else final.shape[1]
        single = positions.flatten(0, 1)[:, None].expand(-1, tokens, -1)
    elif getattr(model, "output_fmt", "NCHW") == "NHWC":
        height, width = final.shape[1:3]
        single = final.flatten(0, 2)[:, None, None]
    else:
        height, width = final.shape[2:]
        single = final.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]
    vectors = model.forward_head(single, pre_logits=True).flatten(1)
    return vectors.unflatten(0, (-1, height, width)).permute(0, 3, 1, 2)


@torch.no_grad()
def classifier_rows(model: Any, name: str) -> Float[Tensor, "Y D"]:
    """Rows w_c of the linear classifier; the mean of both heads for distilled models, whose logits are averaged.

    Raises:
        TargetError: the model has no classifier, or one that is not linear.
    """
    head = model.get_classifier()
    heads = head if isinstance(head, tuple) else (head,)
    if any(isinstance(one, nn.Identity) for one in heads):
        raise TargetError(
            f"{name} has no classifier: it is a tower of features; give its class embeddings in "
            "target.zero_shot.embeddings, or name a model with one"
        )
    return torch.stack([_rows(one, model, name) for one in heads]).mean(dim=0)


def _rows(head: Any, model: Any, name: str) -> Float[Tensor, "Y D"]:
    """The weight of a linear layer; of another affine layer (a norm before a linear one) head(e_i) - head(0)."""
    linear = getattr(head, "fc", head)
    if isinstance(getattr(linear, "weight", None), Tensor):
        return linear.weight.flatten(1)
    reference = next(model.parameters())
    basis = torch.eye(model.head_hidden_size, device=reference.device, dtype=reference.dtype)
    try:
        offset = head(torch.zeros_like(basis[:1]))
        rows, twice = head(basis) - offset, head(2 * basis.sum(dim=0, keepdim=True)) - offset
        linear_in_h = torch.allclose(twice[0], 2 * rows.sum(dim=0), atol=1e-3 * float(rows.abs().sum(dim=0).max()))
    except (RuntimeError, ValueError, TypeError):
        linear_in_h = False
    if not linear_in_h:
        raise TargetError(f"the classifier of {name} is {type(head).__name__}, which is not linear; {OTHER_WAY}")
    return rows.T
