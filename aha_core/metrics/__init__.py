"""How good a map is: faithfulness curves, accuracy under removal, localisation, and what the numbers allow to say."""

from aha_core.metrics.accuracy import PerturbationAccuracy, perturbation_accuracy
from aha_core.metrics.curves import (
    Curves,
    Endpoints,
    auc,
    curve_fractions,
    deletion_insertion,
    endpoint_scores,
    removal_order,
)
from aha_core.metrics.localisation import area_share, energy_in_mask, pointing_hit, rank_accuracy
from aha_core.metrics.statistics import Interval, PairedDifference, bootstrap_ci, holm, paired_difference

__all__ = [
    "Curves",
    "Endpoints",
    "Interval",
    "PairedDifference",
    "PerturbationAccuracy",
    "area_share",
    "auc",
    "bootstrap_ci",
    "curve_fractions",
    "deletion_insertion",
    "endpoint_scores",
    "energy_in_mask",
    "holm",
    "paired_difference",
    "perturbation_accuracy",
    "pointing_hit",
    "rank_accuracy",
    "removal_order",
]
