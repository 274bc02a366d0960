"""Schema of params.yaml: every scientific parameter, its unit and its range.

There are no defaults: params.yaml shows everything that has an effect. Ready files are in `configs/`;
the pipeline's active one is `params.yaml`. Resources (workers, device, threads) do not change results and
can be overridden on the command line.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aha_core.errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
ReferenceName = Literal["black", "mean", "blur"]
EvaluationReference = Literal["black", "mean", "blur", "noise"]
MeasureName = Literal["mas", "saco", "single_deletion", "pos_neg", "road", "sparseness"]
SliceName = Literal["confidence", "correct", "class", "label", "object_size", "off_centre"]
ClassRole = Literal["predicted", "runner_up", "label"]
TrainingRole = Literal["predicted", "runner_up", "label", "second"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SyntheticConfig(Section):
    train: Count = Field(description="training images")
    val: Count = Field(description="validation images (target selection)")
    test: Count = Field(description="test images (accuracy, evaluation)")


class FolderConfig(Section):
    root: str = Field(description="folder of class folders, or with train/ and val/ below it; $VARIABLES are expanded")
    val_fraction: Fraction = Field(description="share of each class held out where the root has no val/ folder")
    max_unreadable: Fraction = Field(description="share of unreadable files above which preparation fails")
    resize: Literal["squash", "crop"] = Field(
        description="squash: both sides to image_size; crop: short side to image_size, centre crop"
    )


class DataConfig(Section):
    source: Literal["synthetic", "folder"] = Field(description="procedural objects with masks, or class folders")
    image_size: Annotated[int, Field(ge=16, le=1024)] = Field(description="side of the square model input, pixels")
    synthetic: SyntheticConfig
    folder: FolderConfig


class TargetTrainConfig(Section):
    epochs: Count = Field(description="passes over the training split")
    batch_size: Count = Field(description="images per step")
    lr: Positive = Field(description="peak AdamW learning rate")
    weight_decay: Annotated[float, Field(ge=0)] = Field(description="AdamW weight decay")
    erase: Fraction = Field(
        description="probability that a training image has random cells removed: makes masked images in-distribution"
    )


class TargetConfig(Section):
    source: Literal["train", "pretrained", "checkpoint"] = Field(
        description="train on the data, timm's pretrained weights, or a local safetensors file"
    )
    name: str = Field(description="timm model name")
    checkpoint: str = Field(description="safetensors file for source: checkpoint; $VARIABLES are expanded")
    train: TargetTrainConfig


class PerturbationConfig(Section):
    """What 'removed' looks like. Reference images live in pixel space [0, 1]."""

    mean: tuple[Fraction, Fraction, Fraction] = Field(description="RGB colour of the mean reference")
    blur_kernel: Annotated[int, Field(ge=3)] = Field(description="side of the blur reference's kernel, pixels, odd")
    blur_sigma: Positive = Field(description="standard deviation of the blur reference, pixels")

    @model_validator(mode="after")
    def _odd(self) -> PerturbationConfig:
        if self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel must be odd, got {self.blur_kernel}")
        return self


class ExplainerConfig(Section):
    levels: Annotated[tuple[Fraction, ...], Field(min_length=1)] = Field(
        description="depths of the target's feature levels that are read, as fractions (1 = last block)"
    )
    width: Count = Field(description="decoder channels")
    depth: Count = Field(description="residual blocks on the token grid")
    refine_scales: Annotated[int, Field(ge=0, le=4)] = Field(
        description="number of x2 upsamplings after the token grid, each fused with an image stem"
    )


class RankingConfig(Section):
    method: Literal["gumbel_sinkhorn", "soft_topk"] = Field(description="relaxation of the ranking")
    standardise: bool = Field(description="scores to mean 0, standard deviation 1 per image before relaxing")
    tau_start: Positive = Field(description="temperature at the first step")
    tau_end: Positive = Field(description="temperature at the last step, and of refinement")
    iterations: Count = Field(description="Sinkhorn iterations (gumbel_sinkhorn only)")
    noise: bool = Field(description="Gumbel noise (gumbel_sinkhorn only; always off in refinement)")
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
        description="grid: trapezoid over linspace(0, 1, S); stratified: one uniform draw in each of S equal strata"
    )
    references: Annotated[tuple[ReferenceName, ...], Field(min_length=1)] = Field(
        description="reference images; one is drawn for each step"
    )
    classes: Annotated[tuple[TrainingRole, ...], Field(min_length=1)] = Field(
        description="classes that are explained; second = the label if the prediction is wrong, else the runner-up"
    )
    classes_per_image: Literal["one", "all"] = Field(description="draw one class per image, or score all of them")
    smoothness: Annotated[float, Field(ge=0)] = Field(description="weight of the smoothness penalty")
    smoothness_kernel: Annotated[int, Field(ge=3)] = Field(description="side of the penalty's box mean, pixels")


class TrainConfig(Section):
    steps: Count = Field(description="optimiser steps")
    batch_size: Count = Field(description="images per step over all workers")
    augment: Literal["none", "flip", "crop"] = Field(description="none; horizontal flip; random resized crop and flip")
    lr: Positive = Field(description="peak AdamW learning rate")
    weight_decay: Annotated[float, Field(ge=0)] = Field(description="AdamW weight decay")
    warmup: Fraction = Field(description="share of the steps with rising learning rate (from lr/25)")
    clip: Positive = Field(description="gradient norm bound")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="decay of the averaged weights that are kept; 0 keeps the last weights"
    )
    precision: Literal["fp32", "bf16"] = Field(description="autocast type of the masked passes and the decoder")
    report_every: Count = Field(description="steps between points of the training curve")
    checkpoint_every: Count = Field(description="steps between checkpoints")


class RefineConfig(Section):
    steps: Annotated[int, Field(ge=0)] = Field(description="gradient steps on the map, T")
    lr: Positive = Field(description="Adam learning rate on the standardised map")
    fractions: Count = Field(description="masked images per direction, reference and step")
    references: Annotated[tuple[ReferenceName, ...], Field(min_length=1)] = Field(
        description="reference images, all used in each step"
    )
    grid: Annotated[int, Field(ge=2)] = Field(description="side of the ranking grid, cells")


class ChecksConfig(Section):
    """Checks that ask methods for new maps: grid pointing game, max-sensitivity, model randomisation."""

    methods: tuple[str, ...] = Field(description="checked methods: baselines by name, aha for AHA in one pass")
    images: Count = Field(description="images for max-sensitivity and model randomisation")
    mosaics: Count = Field(description="most mosaics of each grid")
    sides: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        description="cells per side of the grids; must divide the image"
    )
    draws: Count = Field(description="random shifts of max-sensitivity")
    depths: Count = Field(description="measured steps of the cascade of randomised layers")


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
        description="autocast type of the target's passes in scoring; the error of bf16 is measured and stated"
    )
    max_failed: Fraction = Field(
        description="share of a method's images without a usable map above which the exit is 1"
    )
    methods: tuple[str, ...] = Field(description="baselines by name; `aha methods` lists them")
    ig_steps: Count = Field(description="steps of Integrated Gradients")
    rise_masks: Count = Field(description="random masked images per map: RISE, Kernel SHAP and LIME alike")
    patch_grid: Annotated[int, Field(ge=2)] = Field(
        description="side of the grid of occlusion, Kernel SHAP, LIME, extremal masks and greedy order, cells"
    )
    mask_steps: Count = Field(description="optimisation steps of extremal masks")
    bootstrap: Count = Field(description="bootstrap resamples of the confidence intervals")
    gallery: Count = Field(description="images whose maps are kept for the report")
    checks: ChecksConfig


class ReportConfig(Section):
    gallery: Count = Field(description="images in the map gallery, at most evaluate.gallery")
    strip: Count = Field(description="images in the refinement strip")


class ResourceConfig(Section):
    """Has no effect on results; not tracked by DVC; flags override it."""

    workers: Annotated[int, Field(ge=0)] = Field(description="Ray Train workers; 0 trains in this process")
    device: Literal["auto", "cpu", "cuda"] = Field(description="where tensors live")
    threads: Annotated[int, Field(ge=0)] = Field(description="threads per process; 0 = CPUs divided by workers")
    batch_size: Count = Field(description="images per forward pass outside training")


class Params(Section):
    seed: Annotated[int, Field(ge=0)] = Field(description="seed of every random draw")
    data: DataConfig
    target: TargetConfig
    perturbation: PerturbationConfig
    explainer: ExplainerConfig
    ranking: RankingConfig
    objective: ObjectiveConfig
    train: TrainConfig
    refine: RefineConfig
    evaluate: EvaluateConfig
    report: ReportConfig
    resources: ResourceConfig

    @model_validator(mode="after")
    def _blur_fits(self) -> Params:
        half = self.perturbation.blur_kernel // 2
        if half >= self.data.image_size:
            raise ValueError(
                f"perturbation.blur_kernel {self.perturbation.blur_kernel} needs images larger than {half} pixels, "
                f"data.image_size is {self.data.image_size}"
            )
        return self


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number (YAML 1.1 wants 1.0e-3)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*(?:\.[\d_]*)?|\.[\d_]+)(?:[eE][-+]?\d+)$|^[-+]?(?:\d[\d_]*)?\.[\d_]+$|^[-+]?\.inf$"),
    list("-+.0123456789"),
)


def load_params(path: Path) -> Params:
    """Read and validate a params file.

    Raises ConfigError with one line per problem: dotted name, value, what is allowed.
    """
    if not path.is_file():
        raise ConfigError(f"no parameter file at {path}; `aha profile embedded` writes one")
    try:
        raw = yaml.load(path.read_text(), Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name} is not valid YAML: {error}") from error
    return parse_params(raw, source=path.name)


def parse_params(raw: Any, source: str = "params") -> Params:
    """Validate a nested mapping. Raises ConfigError; see `load_params`."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{source}: expected a mapping of sections, got {type(raw).__name__}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise ConfigError("\n".join(f"{source}: {line}" for line in lines)) from None


def _explain(problem: Any) -> str:
    location = problem["loc"]
    name = ".".join(str(part) for part in location) or "(top level)"
    if problem["type"] == "extra_forbidden":
        return f"unknown parameter {name} = {problem['input']!r}; allowed here: {', '.join(_fields_at(location[:-1]))}"
    if problem["type"] == "missing":
        return f"missing parameter {name}"
    return f"{name} = {problem['input']!r}: {problem['msg'].removeprefix('Value error, ').lower()}"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Params
    for part in location:
        section = section.model_fields[part].annotation
    return sorted(section.model_fields)


def expand_path(spec: str, parameter: str) -> Path:
    """Expand $VARIABLES and ~ in a path parameter.

    Raises ConfigError naming the parameter and the variable when a variable is not set.
    """
    expanded = os.path.expanduser(os.path.expandvars(spec))
    unset = re.search(r"\$\{?(\w+)\}?", expanded)
    if unset:
        raise ConfigError(
            f"{parameter} = {spec!r}: environment variable {unset[1]} is not set; "
            f"export {unset[1]}=/path/to/data or write the path into the parameter"
        )
    return Path(expanded)
