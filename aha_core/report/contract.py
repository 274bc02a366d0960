"""The metric contract in words, with the numbers of this run: printed in every report."""

from __future__ import annotations

from aha_core.config import EvaluateConfig, PerturbationConfig


def contract_lines(config: EvaluateConfig, perturbation: PerturbationConfig) -> tuple[str, ...]:
    """One sentence per rule."""
    mean = ", ".join(f"{value:g}" for value in perturbation.mean)
    described = {
        "black": "black (0 in pixel space)",
        "mean": f"mean colour ({mean})",
        "blur": f"Gaussian blur (kernel {perturbation.blur_kernel}, σ {perturbation.blur_sigma:g} px, reflect padding)",
        "noise": "uniform noise (one seeded draw per image)",
    }
    roles = ", ".join(role.replace("_", " ") for role in config.classes)
    return (
        f"Score: softmax probability of the class ({roles}), fixed from the unperturbed image.",
        f"References, in pixel space before normalisation: {'; '.join(described[name] for name in config.references)}.",
        "Ranking: descending at input resolution; ties fall at random with one seed per image; NaN is an error.",
        f"Curves: {config.points} points from 0 to 100 % of the pixels, both ends included; area by trapezoid over the "
        "true fractions.",
        "Deletion removes the most important pixels first; insertion adds them first to the reference.",
        "SRG = insertion AUC − deletion AUC, in [−1, 1]; per image first, then the mean. No image is filtered.",
        f"Intervals: 95 % percentile bootstrap over images, {config.bootstrap} resamples.",
        "Energy: share of the map's positive part on the object. Pointing game: whether the maximum lies on it. Always "
        "read beside the centre baseline and the area share.",
    )
