"""Sections `ranking`, `objective`, `train`, `fastshap` and `refine`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aha_core.config.section import (
    Count,
    Fraction,
    OptimiserName,
    Positive,
    Precision,
    ReferenceName,
    Section,
    TrainingRole,
)


class RankingConfig(Section):
    method: Literal["soft_topk", "lapsum", "transport", "gumbel_sinkhorn", "sinkhorn", "softsort", "neuralsort"] = (
        Field(description="relaxation of the ranking")
    )
    standardise: bool = Field(
        description="scores to mean 0, standard deviation 1 per image before relaxing; the temperature is then the "
        "width of a mask's edge, the same for every method, else the method's own parameter"
    )
    tau_start: Positive = Field(description="temperature at the first step")
    tau_end: Positive = Field(description="temperature at the last step")
    iterations: Count = Field(description="Sinkhorn iterations (gumbel_sinkhorn, sinkhorn)")
    noise: bool = Field(description="Gumbel noise (gumbel_sinkhorn, transport; always off in refinement)")
    grid_min: Annotated[int, Field(ge=2)] = Field(description="smallest ranking grid side, cells")
    grid_max: Annotated[int, Field(ge=2)] = Field(description="largest ranking grid side, cells")

    @model_validator(mode="after")
    def _ordered(self) -> RankingConfig:
        if self.grid_min > self.grid_max:
            raise ValueError(f"grid_min {self.grid_min} is larger than grid_max {self.grid_max}")
        return self


class ObjectiveConfig(Section):
    fractions: Annotated[int, Field(ge=1)] = Field(description="masked images per direction, S")
    sampling: Literal["grid", "stratified"] = Field(
        description="grid: trapezoid over linspace(0, 1, S), whose ends need no masked pass; stratified: one uniform "
        "draw in each of S equal strata"
    )
    references: Annotated[tuple[ReferenceName, ...], Field(min_length=1)] = Field(
        description="reference images; one is drawn for each step"
    )
    classes: Annotated[tuple[TrainingRole, ...], Field(min_length=1)] = Field(
        description="classes that are explained; second = the label if the prediction is wrong, else the runner-up; "
        "part = what is predicted for one of a mosaic's parts alone, and the predicted class where there is no mosaic"
    )
    classes_per_image: Literal["one", "all"] = Field(description="draw one class per image, or score all of them")
    parts: Annotated[float, Field(ge=0)] = Field(
        description="weight of the positive share of a mosaic's map that lies outside of its class's part (role part)"
    )
    smoothness: Annotated[float, Field(ge=0)] = Field(description="weight of the smoothness penalty")
    smoothness_kernel: Annotated[int, Field(ge=3)] = Field(description="side of the penalty's box mean, pixels, odd")

    @property
    def masked_passes(self) -> int:
        """Masked images that the target scores for an image of a step; the ends of a grid need none."""
        inside = self.fractions - 2 * (self.sampling == "grid")
        return 2 * inside * (len(self.classes) if self.classes_per_image == "all" else 1)

    @model_validator(mode="after")
    def _inner_points(self) -> ObjectiveConfig:
        if self.sampling == "grid" and self.fractions < 3:
            raise ValueError(f"fractions {self.fractions} has no point inside (0, 1); sampling: grid needs 3 or more")
        return self

    @model_validator(mode="after")
    def _odd(self) -> ObjectiveConfig:
        if self.smoothness_kernel % 2 == 0:
            raise ValueError(f"smoothness_kernel must be odd, got {self.smoothness_kernel}")
        return self

    @model_validator(mode="after")
    def _parts_explained(self) -> ObjectiveConfig:
        if self.parts and "part" not in self.classes:
            raise ValueError(f"parts {self.parts} weighs maps of the role part, which is not in classes; add it")
        return self


class TrainConfig(Section):
    start: str = Field(
        description="explainer to start from: a folder or a name, as --explainer takes it; empty: random weights"
    )
    steps: Count = Field(description="optimiser steps")
    batch_size: Count = Field(description="images per step over all workers")
    augment: Literal["none", "flip", "crop"] = Field(description="none; horizontal flip; random resized crop and flip")
    mosaics: Fraction = Field(description="share of the training images that are 2x2 mosaics of random images")
    lr: Positive = Field(description="peak AdamW learning rate")
    weight_decay: Annotated[float, Field(ge=0)] = Field(description="AdamW weight decay")
    warmup: Fraction = Field(description="share of the steps with rising learning rate (from lr/25)")
    clip: Positive = Field(description="gradient norm bound")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="decay of the averaged weights that are kept; 0 keeps the last weights"
    )
    precision: Precision = Field(
        description="autocast type of the masked passes and the decoder; auto: bf16 on GPUs and CPUs with AMX"
    )
    report_every: Count = Field(description="steps between points of the training curve")
    checkpoint_every: Count = Field(description="steps between checkpoints")


class FastShapConfig(Section):
    """The learned baseline: the same network and schedule, trained to say Shapley values."""

    train: bool = Field(description="whether it is trained, which takes as many steps as the explainer")
    grid: Annotated[int, Field(ge=2)] = Field(description="side of the grid of players, cells")


class RefineConfig(Section):
    steps: Annotated[int, Field(ge=0)] = Field(description="gradient steps, T")
    change: Literal["map", "decoder"] = Field(
        description="what the steps change: cells added to the map, or a copy of the explainer's weights for each image"
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        description="every so many steps the score is measured, and an image stops where it has not risen; 0: never"
    )
    hybrid: bool = Field(description="whether the first step starts from the hybrid map, which costs one masked pass")
    hybrid_weight: Positive = Field(
        description="how far the hybrid map's gradient moves a pixel, in standard deviations of the map"
    )
    optimiser: OptimiserName = Field(
        description="of the steps: gradients of each reference divided by their size (normalised), or Adam"
    )
    lr: Positive = Field(
        description="how far a step moves: standard deviations of the map (0.1 to 0.25; adam: 0.2 to 0.3), or of the "
        "decoder's weights (adam: about 1e-3)"
    )
    fractions: Count = Field(description="masked images per direction, reference and step")
    references: Annotated[tuple[ReferenceName, ...], Field(min_length=1)] = Field(
        description="reference images, all used in each step"
    )
    grid: Annotated[int, Field(ge=2)] = Field(
        description="side of the grid of cells that steps and hybrid map change; at most half of the image's side"
    )
    tau: Positive = Field(description="temperature: width of a mask's edge in standard deviations of the map")
    precision: Precision = Field(description="autocast type of the masked passes; auto: bf16 on GPUs and CPUs with AMX")

    @model_validator(mode="after")
    def _weights_by_adam(self) -> RefineConfig:
        if self.change == "decoder" and self.optimiser != "adam":
            raise ValueError(
                f"optimiser {self.optimiser} moves cells; change: decoder needs optimiser: adam and an lr of about 1e-3"
            )
        return self
