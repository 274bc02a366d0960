"""The paper's relaxation: an N x N doubly stochastic matrix from Gumbel-Sinkhorn iterations.

    a_i  = 1 - i / (N - 1)                            anchor of rank slot i (slot 0 = most important)
    L_ij = (-(s_j - a_i)^2 + g_ij) / tau              g_ij = -log(-log U), fresh at every call
    30 x: L -= logsumexp over i (slots), then L -= logsumexp over j (cells)
    m_p  = sum of the first k = pN rows of exp(L), linear between integers

Every rank slot sums to exactly 1, every cell to about 1, so the mask sums to exactly k. Cost: time and memory
O(iterations N^2). Only 2 a_i s_j / tau survives the normalisation, so the scale of the scores acts as an inverse
temperature and their shift is irrelevant. Sources: "Learn to Rank" (arXiv 2604.05819); Mena et al., "Learning
Latent Permutations with Gumbel-Sinkhorn Networks" (2018).

`sinkhorn` is the same without noise. Both leave a marginal residual that grows as tau falls: 30 iterations are the
paper's, and `rounded` makes the cells' sums exact where the reference behaviour is not wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from aha_core.ranking.rounding import prefix_masks, round_plan


class GumbelSinkhorn:
    """Relaxation by Sinkhorn iterations.

    Args:
        tau: temperature, in squared score units.
        iterations: alternating normalisations.
        generators: one per image for the Gumbel noise; None = no noise.
        rounded: make the sum of every cell exactly 1 too (the paper leaves the residual).
    """

    def __init__(
        self, tau: float, iterations: int, generators: Sequence[torch.Generator] | None = None, rounded: bool = False
    ) -> None:
        self.tau, self.iterations, self.generators, self.rounded = tau, iterations, generators, rounded

    def soft_permutation(self, scores: Float[Tensor, "B N"]) -> Float[Tensor, "B N N"]:
        """P[b, i, j]: how much cell j holds rank slot i; rows sum to 1."""
        count = scores.shape[1]
        anchors = 1.0 - torch.arange(count, device=scores.device, dtype=scores.dtype) / max(count - 1, 1)
        # -(s - a)^2 without -s^2, which the first normalisation would remove: huge scores keep their differences.
        log_kernel = 2 * anchors[:, None] * scores[:, None, :] - anchors[:, None].square()
        if self.generators is not None:
            log_kernel = log_kernel + gumbel(log_kernel, self.generators)
        log_kernel = log_kernel / self.tau
        for _ in range(self.iterations):
            log_kernel = log_kernel - log_kernel.logsumexp(dim=1, keepdim=True)
            log_kernel = log_kernel - log_kernel.logsumexp(dim=2, keepdim=True)
        permutation = log_kernel.exp()
        return round_plan(permutation, 1.0, 1.0) if self.rounded else permutation

    def soft_topk_masks(self, scores: Float[Tensor, "B N"], k: Float[Tensor, "S"]) -> Float[Tensor, "S B N"]:
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return prefix_masks(self.soft_permutation(wide), k).to(scores.dtype)


def gumbel(like: Float[Tensor, "B M N"], generators: Sequence[torch.Generator]) -> Float[Tensor, "B M N"]:
    """-log(-log U), drawn on the CPU from each image's own generator so that sharding does not change it."""
    uniform = torch.stack([torch.rand(like.shape[1:], generator=one) for one in generators])
    tiny = torch.finfo(torch.float32).tiny
    return -torch.log(-torch.log(uniform.clamp(tiny, 1 - 2**-24))).to(like)
