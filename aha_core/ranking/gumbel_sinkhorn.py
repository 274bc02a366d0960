"""The paper's relaxation: an N x N doubly stochastic matrix from Gumbel-Sinkhorn iterations.

    a_i  = 1 - i / (N - 1)                            anchor of rank slot i (slot 0 = most important)
    L_ij = (-(s_j - a_i)^2 + g_ij) / tau              g_ij = -log(-log U), fresh at every call
    30 x: L -= logsumexp over i (slots), then L -= logsumexp over j (cells)
    m_p  = sum of the first k = pN rows of exp(L), linear between integers

Every rank slot sums to exactly 1, every cell to about 1, so the mask sums to exactly k. Cost: time and memory
O(iterations N^2). Only 2 a_i s_j / tau survives the normalisation, so the scale of the scores acts as an inverse
temperature and their shift is irrelevant. Sources: "Learn to Rank" (arXiv 2604.05819); Mena et al., "Learning
Latent Permutations with Gumbel-Sinkhorn Networks" (2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class GumbelSinkhorn:
    """Relaxation by Sinkhorn iterations.

    Args:
        tau: temperature, in squared score units.
        iterations: alternating normalisations.
        generators: one per image for the Gumbel noise; None = no noise.
    """

    def __init__(self, tau: float, iterations: int, generators: Sequence[torch.Generator] | None = None) -> None:
        self.tau, self.iterations, self.generators = tau, iterations, generators

    def soft_permutation(self, scores: Float[Tensor, "B N"]) -> Float[Tensor, "B N N"]:
        """P[b, i, j]: how much cell j holds rank slot i; rows sum to 1."""
        count = scores.shape[1]
        anchors = 1.0 - torch.arange(count, device=scores.device, dtype=scores.dtype) / max(count - 1, 1)
        log_kernel = -((scores[:, None, :] - anchors[None, :, None]) ** 2)
        if self.generators is not None:
            log_kernel = log_kernel + self._gumbel(log_kernel)
        log_kernel = log_kernel / self.tau
        for _ in range(self.iterations):
            log_kernel = log_kernel - log_kernel.logsumexp(dim=1, keepdim=True)
            log_kernel = log_kernel - log_kernel.logsumexp(dim=2, keepdim=True)
        return log_kernel.exp()

    def soft_topk_masks(self, scores: Float[Tensor, "B N"], k: Float[Tensor, "S"]) -> Float[Tensor, "S B N"]:
        permutation = self.soft_permutation(scores)
        cumulative = torch.cumsum(permutation, dim=1)
        cumulative = torch.cat([torch.zeros_like(cumulative[:, :1]), cumulative], dim=1)  # (B, N + 1, N)
        k = k.to(scores).clamp(0, scores.shape[1])
        below = k.floor().long()
        above = k.ceil().long()
        return torch.lerp(cumulative[:, below], cumulative[:, above], (k - below)[None, :, None]).transpose(0, 1)

    def _gumbel(self, like: Float[Tensor, "B N N"]) -> Float[Tensor, "B N N"]:
        """-log(-log U), drawn on the CPU from each image's own generator so that sharding does not change it."""
        assert self.generators is not None
        uniform = torch.stack([torch.rand(like.shape[1:], generator=one) for one in self.generators])
        tiny = torch.finfo(torch.float32).tiny
        return -torch.log(-torch.log(uniform.clamp(tiny, 1 - 2**-24))).to(like)
