"""How good a map is: faithfulness, localisation, sanity, and what the numbers allow to say.

Everything is a function of tensors (and of a callable from images to scores), usable on maps of any origin.

    from aha_core.metrics import curve_fractions, deletion_insertion, removal_order
    orders = removal_order(maps, seeds)
    counts, _ = curve_fractions(points=21, pixels=224 * 224)
    curves = deletion_insertion(probabilities, images, orders, classes, reference, counts, batch_size=64)
"""

from aha_core.metrics.accuracy import PerturbationAccuracy, perturbation_accuracy
from aha_core.metrics.boundary import boundary_alignment
from aha_core.metrics.correlation import spearman, ssim, unit_range
from aha_core.metrics.curves import (
    Curves,
    Endpoints,
    auc,
    curve_fractions,
    deletion_insertion,
    endpoint_scores,
)
from aha_core.metrics.grid_pointing import (
    Mosaics,
    alone,
    cell_energy,
    cell_hit,
    cell_rank_accuracy,
    choose_cells,
    mosaics,
    shrink,
)
from aha_core.metrics.imputation import impute
from aha_core.metrics.localisation import area_share, energy_in_mask, pointing_hit, rank_accuracy
from aha_core.metrics.mas import MagnitudeAligned, magnitude_aligned
from aha_core.metrics.overlap import average_precision, best_iou, mean_threshold_iou
from aha_core.metrics.randomisation import Randomised, model_randomisation
from aha_core.metrics.regions import bounding_boxes, box_masks, off_centre
from aha_core.metrics.road import Road, road
from aha_core.metrics.saco import saco
from aha_core.metrics.sensitivity import max_sensitivity
from aha_core.metrics.single_deletion import deletion_effects, single_deletion_correlation
from aha_core.metrics.sparseness import gini
from aha_core.metrics.statistics import Interval, PairedDifference, bootstrap_ci, holm, paired_difference
from aha_core.order import ranks_of, removal_order, tie_breaks

__all__ = [
    "Curves",
    "Endpoints",
    "Interval",
    "MagnitudeAligned",
    "Mosaics",
    "PairedDifference",
    "PerturbationAccuracy",
    "Randomised",
    "Road",
    "alone",
    "area_share",
    "auc",
    "average_precision",
    "best_iou",
    "bootstrap_ci",
    "boundary_alignment",
    "bounding_boxes",
    "box_masks",
    "cell_energy",
    "cell_hit",
    "cell_rank_accuracy",
    "choose_cells",
    "curve_fractions",
    "deletion_effects",
    "deletion_insertion",
    "endpoint_scores",
    "energy_in_mask",
    "gini",
    "holm",
    "impute",
    "magnitude_aligned",
    "max_sensitivity",
    "mean_threshold_iou",
    "model_randomisation",
    "mosaics",
    "off_centre",
    "paired_difference",
    "perturbation_accuracy",
    "pointing_hit",
    "rank_accuracy",
    "ranks_of",
    "removal_order",
    "road",
    "saco",
    "shrink",
    "single_deletion_correlation",
    "spearman",
    "ssim",
    "tie_breaks",
    "unit_range",
]
