"""Attention rollout (Abnar & Zuidema, ACL 2020): attention multiplied through the layers.

    R = prod_l (mean_h A_l + I) / 2        (later layers on the left)

The map is the classifier's row of R. It does not depend on the class.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.attention import attention_pass, needs_attention, readout, token_maps
from aha_core.baselines.base import Baseline, BaselineSpec


class Rollout(Baseline):
    """Product of the layers' mean attention with residual connections."""

    class_specific = False

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 h w"]:
        with torch.no_grad():
            attention = attention_pass(self.target, x).attention
        identity = torch.eye(attention[0].shape[-1], device=x.device)
        relation = identity.expand(len(x), -1, -1)
        for layer in attention:
            relation = 0.5 * (layer.float().mean(dim=1) + identity) @ relation
        return token_maps(self.target, readout(self.target, relation), x.shape)


SPEC = BaselineSpec(
    "rollout",
    "attention rollout",
    Rollout,
    passes="1",
    applies_to=needs_attention,
    families="ViTs with global attention",
)
