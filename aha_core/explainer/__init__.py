"""The explainer networks: from a frozen target's features, or a frozen backbone's, to one raw importance map."""

from aha_core.explainer.base import ExplainerNetwork
from aha_core.explainer.model import FeatureExplainer, build_explainer

__all__ = ["ExplainerNetwork", "FeatureExplainer", "build_explainer"]
