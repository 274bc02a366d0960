"""LeGrad (Bousselham et al., ICCV 2025, arXiv 2404.03214): sensitivity of each layer's own prediction to its attention.

    s_l = logit_c(norm(mean_i Z_l,i))                        Z_l: output tokens of block l, prefix tokens included
    map_j = 1/L sum_l mean_{h, i} relu(ds_l / dA_l[h, i, j])        j: patch tokens; l: the last L blocks

Two choices follow the authors' code (github.com/WalBouss/LeGrad): tokens are pooled by their mean before the final
norm, also in models that classify by a class token, and L = 2. On ViT-Tiny and 40 Imagenette images the SRG with a
black (blurred) reference was .309 (.403) for the last 2 blocks, .301 (.389) for 6 and .259 (.339) for all 12.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.baselines.attention import attention_pass, needs_attention, token_maps
from aha_core.baselines.base import Baseline, BaselineSpec, class_scores
from aha_core.targets import Target

LAYERS = 2


def needs_layer_logits(target: Target) -> str | None:
    """Reason why intermediate tokens cannot be classified, or None."""
    if needs_attention(target) or not hasattr(target.model, "norm"):
        return needs_attention(target) or f"needs a final norm before the classifier; {target.name} has none"
    return None


class LeGrad(Baseline):
    """Positive attention gradients of the last layers' own logits."""

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 h w"]:
        one = attention_pass(self.target, x)
        prefix = self.target.num_prefix_tokens
        total = x.new_zeros(len(x), one.outputs[0].shape[1] - prefix)
        layers = list(zip(one.attention, one.outputs, strict=True))[-LAYERS:]
        for attention, tokens in layers:
            score = class_scores(self._layer_logits(tokens), classes).sum()
            (gradient,) = torch.autograd.grad(score, attention, retain_graph=True)
            total += gradient.relu().mean(dim=(1, 2))[:, prefix:]
        return token_maps(self.target, total / len(layers), x.shape)

    def _layer_logits(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B Y"]:
        pooled = self.target.model.norm(tokens.mean(dim=1, keepdim=True))
        # Whatever tokens the head pools, they are all the mean: enough for its prefix and one patch.
        return self.target.model.forward_head(pooled.expand(-1, self.target.num_prefix_tokens + 1, -1))


SPEC = BaselineSpec(
    "legrad",
    "attention gradients of the last layers' own predictions",
    LeGrad,
    passes="3",
    applies_to=needs_layer_logits,
    families="ViTs with global attention",
)
