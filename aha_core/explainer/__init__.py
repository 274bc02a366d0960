"""The explainer network: features of the target in, one raw importance map out."""

from aha_core.explainer.model import FeatureExplainer, build_explainer

__all__ = ["FeatureExplainer", "build_explainer"]
