"""Generic attention explainability (Chefer, Gur & Wolf, ICCV 2021), self-attention encoders.

    R <- I;  for each layer l:  R <- R + mean_h relu(ds_c / dA_l * A_l) R

with the softmax attention A_l and the class logit s_c. The map is the classifier's row of R.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.attention import attention_pass, needs_attention, readout, token_maps
from aha_core.baselines.base import Baseline, BaselineSpec, class_scores


class Chefer(Baseline):
    """Positive part of gradient times attention, accumulated through the layers."""

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 h w"]:
        one = attention_pass(self.target, x)
        gradients = torch.autograd.grad(class_scores(one.logits, classes).sum(), one.attention)
        relation = torch.eye(one.attention[0].shape[-1], device=x.device).expand(len(x), -1, -1)
        for attention, gradient in zip(one.attention, gradients, strict=True):
            layer = (gradient * attention.detach()).float().relu().mean(dim=1)
            relation = relation + layer @ relation
        return token_maps(self.target, readout(self.target, relation), x.shape)


SPEC = BaselineSpec(
    "chefer",
    "gradient x attention through the layers",
    Chefer,
    passes="3",
    applies_to=needs_attention,
    families="ViTs with global attention",
)
