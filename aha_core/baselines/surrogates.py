"""Linear surrogates of the classifier over patches. v(z): the class probability when only the cells z are kept.

    Kernel SHAP   phi = argmin sum_z (v(z) - v(0) - z phi)^2  s.t.  sum phi = v(1) - v(0)
                  z: |z| = s drawn with probability ~ 1 / (s (N - s)), then a subset of that size, each with its
                  complement                           (Lundberg & Lee, NeurIPS 2017; Covert & Lee, AISTATS 2021)
    LIME          argmin sum_z k(z) (v(z) - b - z w)^2 + |w|^2,  z: each cell kept with probability 1/2,
                  k(z) = sqrt(exp(-D(z)^2 / .25^2)),  D(z) = 1 - sqrt(|z| / N), the cosine distance from the image
                                                       (Ribeiro et al., KDD 2016; ridge and width of the authors' code)

captum has both, but draws masks from the global generator (a map would depend on what ran before), takes one image
at a time, and needs scikit-learn for the fit, which here is a solve in float64. All images share the masks of one seed.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aha_core.baselines.base import Baseline, BaselineSpec
from aha_core.baselines.patches import patch_maps, patch_probabilities
from aha_core.shapley import shapley_masks

KERNEL_WIDTH, RIDGE = 0.25, 1.0  # lime_image's defaults
STABILISER = 1e-6  # added to the normal equations of Kernel SHAP, which have entries of about 1/4


class Surrogate(Baseline):
    """Fits patch weights to the target's answers on random patch masks."""

    def _maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        cells = self.settings.patch_grid**2
        generator = torch.Generator().manual_seed(self.settings.seed)
        kept = self._masks(cells, self.settings.rise_masks, generator)
        ends = torch.stack([torch.zeros(cells, dtype=torch.bool), torch.ones(cells, dtype=torch.bool)])
        references = self.settings.reference(x)
        weights = []
        for image, reference, label in zip(x, references, classes, strict=True):
            scores = patch_probabilities(
                self.target, image, reference, torch.cat([ends, kept]), label, self.settings.batch_size
            ).cpu()
            weights.append(self._fit(kept.double(), scores[2:], scores[0], scores[1]))
        return patch_maps(torch.stack(weights).to(x), x.shape)

    @abstractmethod
    def _masks(self, cells: int, count: int, generator: torch.Generator) -> Bool[Tensor, "S N"]: ...

    @abstractmethod
    def _fit(
        self, z: Float[Tensor, "S N"], scores: Float[Tensor, "S"], none: Float[Tensor, ""], full: Float[Tensor, ""]
    ) -> Float[Tensor, "N"]: ...


class KernelShap(Surrogate):
    """Shapley values of the patches by constrained least squares."""

    def _masks(self, cells: int, count: int, generator: torch.Generator) -> Bool[Tensor, "S N"]:
        return shapley_masks(cells, count, generator)

    def _fit(self, z: Tensor, scores: Tensor, none: Tensor, full: Tensor) -> Tensor:
        return shapley_fit(z, scores, none, full)


class Lime(Surrogate):
    """Ridge regression on patches near the image."""

    def _masks(self, cells: int, count: int, generator: torch.Generator) -> Bool[Tensor, "S N"]:
        return torch.rand((count, cells), generator=generator) < 0.5

    def _fit(self, z: Tensor, scores: Tensor, none: Tensor, full: Tensor) -> Tensor:
        return lime_fit(z, scores)


def shapley_fit(
    z: Float[Tensor, "S N"], scores: Float[Tensor, "S"], none: Float[Tensor, ""], full: Float[Tensor, ""]
) -> Float[Tensor, "N"]:
    """phi = A^-1 (b - 1 (1 A^-1 b - v(1) + v(0)) / (1 A^-1 1)) with A = mean z z^T, b = mean z (v(z) - v(0))."""
    normal = z.T @ z / len(z) + STABILISER * torch.eye(z.shape[1], dtype=z.dtype)
    right = z.T @ (scores - none) / len(z)
    solved = torch.linalg.solve(normal, torch.stack([right, torch.ones_like(right)], dim=1))
    surplus = (solved[:, 0].sum() - (full - none)) / solved[:, 1].sum()
    return solved[:, 0] - surplus * solved[:, 1]


def lime_fit(z: Float[Tensor, "S N"], scores: Float[Tensor, "S"]) -> Float[Tensor, "N"]:
    """Weighted ridge regression with an intercept that is not penalised."""
    distance = 1 - (z.mean(dim=1)).sqrt()
    weights = torch.exp(-(distance**2) / KERNEL_WIDTH**2).sqrt()
    share = weights / weights.sum()
    centred, target = z - share @ z, scores - share @ scores
    normal = centred.T @ (weights[:, None] * centred) + RIDGE * torch.eye(z.shape[1], dtype=z.dtype)
    return torch.linalg.solve(normal, centred.T @ (weights * target))


SPECS = (
    BaselineSpec("kernel_shap", "Shapley values of patches by regression", KernelShap, passes="rise_masks"),
    BaselineSpec("lime", "linear surrogate over patches near the image", Lime, passes="rise_masks"),
)
