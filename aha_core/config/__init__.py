"""Schema of params.yaml: every scientific parameter, its unit and its range.

There are no defaults: params.yaml shows everything that has an effect. Ready files are in `configs/`;
the pipeline's active one is `params.yaml`. Resources (workers, device, threads) do not change results and
can be overridden on the command line. One module for each group of sections; `file` reads them.
"""

from aha_core.config.data import DataConfig, FolderConfig
from aha_core.config.evaluation import ChecksConfig, EvaluateConfig
from aha_core.config.explainer import BackboneConfig, DptConfig, ExplainerConfig, FeaturesConfig, parse_explainer
from aha_core.config.file import expand_path, load_params, parse_params
from aha_core.config.params import Params
from aha_core.config.section import (
    ClassRole,
    EvaluationReference,
    MeasureName,
    OptimiserName,
    Positive,
    Precision,
    ReferenceName,
    TrainingRole,
)
from aha_core.config.target import PerturbationConfig, TargetTrainConfig
from aha_core.config.training import ObjectiveConfig, RankingConfig, RefineConfig

__all__ = [
    "BackboneConfig",
    "ChecksConfig",
    "ClassRole",
    "DataConfig",
    "DptConfig",
    "EvaluateConfig",
    "EvaluationReference",
    "ExplainerConfig",
    "FeaturesConfig",
    "FolderConfig",
    "MeasureName",
    "ObjectiveConfig",
    "OptimiserName",
    "Params",
    "PerturbationConfig",
    "Positive",
    "Precision",
    "RankingConfig",
    "ReferenceName",
    "RefineConfig",
    "TargetTrainConfig",
    "TrainingRole",
    "expand_path",
    "load_params",
    "parse_explainer",
    "parse_params",
]
