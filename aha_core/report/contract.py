"""The metric contract in words, with the numbers of this run: printed in every report."""

from __future__ import annotations

from aha_core.config import ChecksConfig, EvaluateConfig, PerturbationConfig

MEASURES = {
    "mas": "MAS: curves penalised where the map's mass is not inserted as the score rises (Walker et al.).",
    "saco": "SaCo: whether groups of pixels that are said to matter more do (10 groups; Wu et al.).",
    "single_deletion": "Single deletion: Spearman of map sums and score drops over a 4 × 4 grid (after Hesse et al.).",
    "pos_neg": "POS/NEG: top-1 accuracy for the label at 0 … 90 % removed, black, trapezoid × 100 (Chefer et al.).",
    "road": "ROAD: mean over 10 … 90 % of score without the least minus without the most important pixels, removed by "
    "noisy linear imputation (Rong et al.).",
    "sparseness": "Gini: inequality of the map's magnitudes; how sparse, not how right.",
}


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
        *_scoring(config, roles, [described[name] for name in config.references]),
        *(MEASURES[name] for name in config.measures_from(0)),
        *_checks(config.checks),
        "Energy: share of the map's positive part on the object. Pointing game: whether the maximum lies on it. Rank "
        "accuracy: share of the object's as many highest pixels that lie on it. IoU at the best and at the map's mean "
        "threshold; average precision; boundary: F of the map's top region against the "
        "mask. Always read beside the centre baseline and the area share, and on the off-centre images.",
    )


def _scoring(config: EvaluateConfig, roles: str, references: list[str]) -> tuple[str, ...]:
    return (
        f"Score: softmax probability of the class ({roles}), fixed from the unperturbed image.",
        f"References, in pixel space before normalisation: {'; '.join(references)}.",
        "Ranking: descending at input resolution; ties fall at random with one seed per image; NaN is an error.",
        f"Curves: {config.points} points from 0 to 100 % of the pixels, both ends included; area by trapezoid over the "
        "true fractions.",
        "Deletion removes the most important pixels first; insertion adds them first to the reference.",
        "SRG = insertion AUC − deletion AUC, in [−1, 1]; per image first, then the mean. No image is filtered.",
        f"Intervals: 95 % percentile bootstrap over images, {config.bootstrap} resamples.",
        *_economies(config),
    )


def _economies(config: EvaluateConfig) -> tuple[str, ...]:
    """Where scoring is cheaper than it could be."""
    lines = []
    if config.slow.methods:
        names = ", ".join(config.slow.methods)
        lines.append(f"Slow methods ({names}): scored on the first {config.slow.images} images, a fair sample of all.")
    if config.slow.measures:
        names = ", ".join(MEASURES[name].partition(":")[0] for name in config.slow.measures)
        lines.append(f"Slow measures ({names}): of all methods on the same first {config.slow.images} images.")
    if config.precision != "fp32":
        lines.append(
            f"Passes of scoring and of slow methods: {config.precision} autocast, softmax in float32; what that "
            "changes in probabilities and SRG is measured and stated."
        )
    return tuple(lines)


def _checks(config: ChecksConfig) -> tuple[str, ...]:
    if not config.methods:
        return ()
    grids = " and ".join(f"{side} × {side}" for side in config.sides)
    mosaics = (
        f"Grid pointing game ({grids}): mosaics of images that are recognised alone at the size of a cell; share of "
        "the map's positive part in the cell of its class, rank accuracy, hit of the maximum (Böhle et al.)."
    )
    return (
        *((mosaics,) if config.sides else ()),
        f"Max-sensitivity: largest relative change of the map, L2, over {config.draws} small random shifts of the "
        "image (Yeh et al.).",
        "Sanity: Spearman and SSIM of maps of the target and of its layers made random from the output down "
        "(Adebayo et al.); lower is better.",
    )
