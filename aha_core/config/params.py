"""The whole of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aha_core.config.data import DataConfig
from aha_core.config.evaluation import EvaluateConfig, ReportConfig
from aha_core.config.explainer import DptConfig, ExplainerConfig
from aha_core.config.section import Count, Positive, Section
from aha_core.config.target import PerturbationConfig, TargetConfig
from aha_core.config.training import FastShapConfig, ObjectiveConfig, RankingConfig, RefineConfig, TrainConfig


class ResourceConfig(Section):
    """Has no effect on results; not tracked by DVC; flags override it."""

    workers: Annotated[int, Field(ge=0)] = Field(description="Ray workers of training and evaluation; 0 = this process")
    device: Literal["auto", "cpu", "cuda"] = Field(description="where tensors live")
    threads: Annotated[int, Field(ge=0)] = Field(
        description="threads per process; 0 = CPUs divided by workers, for scoring on the CPU one"
    )
    batch_size: Count = Field(description="most images per forward pass outside training")
    memory_gb: Positive = Field(
        description="GiB for the activations of a pass over masked images: training, refinement, curves and measures"
    )


class Params(Section):
    seed: Annotated[int, Field(ge=0)] = Field(description="seed of every random draw")
    data: DataConfig
    target: TargetConfig
    perturbation: PerturbationConfig
    explainer: ExplainerConfig
    ranking: RankingConfig
    objective: ObjectiveConfig
    train: TrainConfig
    fastshap: FastShapConfig
    refine: RefineConfig
    evaluate: EvaluateConfig
    report: ReportConfig
    resources: ResourceConfig

    @model_validator(mode="after")
    def _trained_backbone_fits(self) -> Params:
        if isinstance(self.explainer, DptConfig) and self.explainer.backbone.source == "train":
            size = self.explainer.backbone.image_size
            if size != self.data.image_size:
                raise ValueError(
                    f"explainer.backbone.image_size {size} must be data.image_size {self.data.image_size} "
                    "for a backbone that is trained on the data"
                )
        return self

    @model_validator(mode="after")
    def _blur_fits(self) -> Params:
        half = self.perturbation.blur_kernel // 2
        if half >= self.data.image_size:
            raise ValueError(
                f"perturbation.blur_kernel {self.perturbation.blur_kernel} needs images larger than {half} pixels, "
                f"data.image_size is {self.data.image_size}"
            )
        return self
