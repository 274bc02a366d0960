"""Sections `evaluate` and `report`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from aha_core.config.section import ClassRole, Count, EvaluationReference, Fraction, MeasureName, Section, SliceName


class ChecksConfig(Section):
    """Checks that ask methods for new maps: grid pointing game, max-sensitivity, model randomisation."""

    methods: tuple[str, ...] = Field(
        description="checked methods: baselines by name; aha for one pass, aha_hybrid, aha_t3"
    )
    images: Count = Field(description="images for max-sensitivity and model randomisation")
    mosaics: Count = Field(description="most mosaics of each grid")
    sides: tuple[Annotated[int, Field(ge=2)], ...] = Field(description="cells per side of the grids")
    draws: Count = Field(description="random shifts of max-sensitivity")
    depths: Count = Field(description="measured steps of the cascade of randomised layers")


class SlowConfig(Section):
    """Methods and measures with many passes per map, which few images must do for."""

    methods: tuple[str, ...] = Field(description="further baselines by name, evaluated on the first images only")
    measures: tuple[MeasureName, ...] = Field(description="further measures, of all methods on the first images only")
    images: Count = Field(description="how many; rounded up to whole chunks of resources.batch_size")


class EvaluateConfig(Section):
    images: Count = Field(description="test images evaluated, spread evenly over the split")
    classes: Annotated[tuple[ClassRole, ...], Field(min_length=1)] = Field(description="classes explained and scored")
    references: Annotated[tuple[EvaluationReference, ...], Field(min_length=1)] = Field(description="reference images")
    points: Annotated[int, Field(ge=3)] = Field(description="points of a curve, both ends included")
    measures: tuple[MeasureName, ...] = Field(
        description="what is measured besides deletion, insertion and, where there are masks, localisation"
    )
    slices: tuple[SliceName, ...] = Field(
        description="columns by which scores are also shown; those that need masks are left out where there are none"
    )
    precision: Literal["fp32", "bf16"] = Field(
        description="autocast type of the target's passes in scoring and in slow methods; the error of bf16 is "
        "measured and stated"
    )
    max_failed: Fraction = Field(
        description="share of a method's images without a usable map above which the exit is 1"
    )
    methods: tuple[str, ...] = Field(description="baselines by name; `aha methods` lists them")
    slow: SlowConfig
    ig_steps: Count = Field(description="steps of Integrated Gradients")
    rise_masks: Count = Field(description="random masked images per map: RISE, Kernel SHAP and LIME alike")
    patch_grid: Annotated[int, Field(ge=2)] = Field(
        description="side of the grid of occlusion, Kernel SHAP, LIME, extremal masks and greedy order, cells"
    )
    mask_steps: Count = Field(description="optimisation steps of extremal masks")
    bootstrap: Count = Field(description="bootstrap resamples of the confidence intervals")
    gallery: Count = Field(description="images whose maps are kept for the report")
    checks: ChecksConfig

    def measures_from(self, start: int) -> tuple[MeasureName, ...]:
        """Measures of the chunk whose first image has this place in the evaluation."""
        return tuple(dict.fromkeys(self.measures + (self.slow.measures if start < self.slow.images else ())))


class ReportConfig(Section):
    gallery: Count = Field(description="images in the map gallery, at most evaluate.gallery")
    strip: Count = Field(description="images in the refinement strip")
