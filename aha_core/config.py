"""Schema of params.yaml: every scientific parameter, its unit and its range.

There are no defaults: params.yaml shows everything that has an effect. Ready files are in `configs/`;
the pipeline's active one is `params.yaml`. Resources (workers, device, threads) do not change results and
can be overridden on the command line.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

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
Precision = Literal["auto", "fp32", "bf16"]


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


class ZeroShotConfig(Section):
    """Classes given by embeddings instead of a trained classifier, for CLIP towers."""

    embeddings: str = Field(
        description="safetensors file with one matrix, a row for each class; empty = the model's own classifier; "
        "$VARIABLES are expanded"
    )
    temperature: Positive = Field(description="divides the cosines: logits = cosine / temperature; 0.01 in CLIP")


class TargetConfig(Section):
    source: Literal["train", "pretrained", "checkpoint"] = Field(
        description="train on the data, timm's pretrained weights, or a local safetensors file"
    )
    name: str = Field(description="timm model name")
    checkpoint: str = Field(description="safetensors file for source: checkpoint; $VARIABLES are expanded")
    zero_shot: ZeroShotConfig
    train: TargetTrainConfig

    @model_validator(mode="after")
    def _trained_tower(self) -> TargetConfig:
        if self.zero_shot.embeddings and self.source == "train":
            raise ValueError("zero_shot.embeddings needs a trained tower: source pretrained or checkpoint, not train")
        return self


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


class FeaturesConfig(Section):
    """Reads the target's own features; explains any class of any linear head."""

    kind: Literal["features"]
    levels: Annotated[tuple[Fraction, ...], Field(min_length=1)] = Field(
        description="depths of the target's feature levels that are read, as fractions (1 = last block)"
    )
    width: Count = Field(description="decoder channels")
    depth: Count = Field(description="residual blocks on the token grid")
    refine_scales: Annotated[int, Field(ge=0, le=4)] = Field(
        description="number of x2 upsamplings after the token grid, each fused with an image stem"
    )


class BackboneConfig(Section):
    source: Literal["pretrained", "checkpoint", "train"] = Field(
        description="timm's pretrained weights, a local safetensors file, or trained on the data by the recipe of "
        "target.train with the next seed"
    )
    name: str = Field(description="timm model name")
    checkpoint: str = Field(description="safetensors file for source: checkpoint; $VARIABLES are expanded")
    image_size: Annotated[int, Field(ge=16, le=1024)] = Field(description="side of the backbone's input, pixels")


class DptConfig(Section):
    """The paper's: a DPT decoder on a frozen foreign backbone, with a learned embedding of each class."""

    kind: Literal["dpt"]
    backbone: BackboneConfig
    stages: tuple[Fraction, Fraction, Fraction, Fraction] = Field(
        description="depths of the backbone's levels that become the strides 4, 8, 16, 32, as fractions (1 = last)"
    )
    channels: Count = Field(description="channels of the reassembled levels")
    width: Annotated[int, Field(ge=4)] = Field(description="decoder channels")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="share of the channels that the refinement block does not see in training"
    )

    @property
    def levels(self) -> tuple[float, ...]:
        """Of the target this explainer needs nothing but logits."""
        return ()


ExplainerConfig = Annotated[FeaturesConfig | DptConfig, Field(discriminator="kind")]


def parse_explainer(raw: Any) -> ExplainerConfig:
    """Validate a mapping with the fields of one kind of explainer. Raises pydantic's ValidationError."""
    return TypeAdapter(ExplainerConfig).validate_python(raw)


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
        description="classes that are explained; second = the label if the prediction is wrong, else the runner-up"
    )
    classes_per_image: Literal["one", "all"] = Field(description="draw one class per image, or score all of them")
    smoothness: Annotated[float, Field(ge=0)] = Field(description="weight of the smoothness penalty")
    smoothness_kernel: Annotated[int, Field(ge=3)] = Field(description="side of the penalty's box mean, pixels")

    @model_validator(mode="after")
    def _inner_points(self) -> ObjectiveConfig:
        if self.sampling == "grid" and self.fractions < 3:
            raise ValueError(f"fractions {self.fractions} has no point inside (0, 1); sampling: grid needs 3 or more")
        return self


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
    precision: Precision = Field(
        description="autocast type of the masked passes and the decoder; auto: bf16 where the hardware has it"
    )
    report_every: Count = Field(description="steps between points of the training curve")
    checkpoint_every: Count = Field(description="steps between checkpoints")


class FastShapConfig(Section):
    """The learned baseline: the same network and schedule, trained to say Shapley values."""

    train: bool = Field(description="whether it is trained, which takes as many steps as the explainer")
    grid: Annotated[int, Field(ge=2)] = Field(description="side of the grid of players, cells")


class RefineConfig(Section):
    steps: Annotated[int, Field(ge=0)] = Field(description="gradient steps on the map, T")
    lr: Positive = Field(description="Adam learning rate on the standardised map")
    fractions: Count = Field(description="masked images per direction, reference and step")
    references: Annotated[tuple[ReferenceName, ...], Field(min_length=1)] = Field(
        description="reference images, all used in each step"
    )
    grid: Annotated[int, Field(ge=2)] = Field(description="side of the ranking grid, cells")
    tau: Positive = Field(description="temperature: width of a mask's edge in standard deviations of the map")
    precision: Precision = Field(description="autocast type of the masked passes; auto: bf16 where the hardware has it")


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

    workers: Annotated[int, Field(ge=0)] = Field(description="Ray workers of training and evaluation; 0 = this process")
    device: Literal["auto", "cpu", "cuda"] = Field(description="where tensors live")
    threads: Annotated[int, Field(ge=0)] = Field(description="threads per process; 0 = CPUs divided by workers")
    batch_size: Count = Field(description="images per forward pass outside training")
    memory_gb: Positive = Field(
        description="GiB for the activations of a micro-batch of masked passes, in each process (training, refinement)"
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
    names, section = _place(problem["loc"])
    name = ".".join(names) or "(top level)"
    if problem["type"] == "extra_forbidden":
        _, around = _place(problem["loc"][:-1])
        return (
            f"unknown parameter {name} = {problem['input']!r}; allowed here: {', '.join(sorted(around.model_fields))}"
        )
    if problem["type"] == "missing":
        return f"missing parameter {name}"
    if problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        tag = problem.get("ctx", {}).get("tag")
        given = f"missing parameter {name}.kind" if tag is None else f"{name}.kind = {tag!r}"
        return f"{given}: expected {' or '.join(section)}"
    return f"{name} = {problem['input']!r}: {problem['msg'].removeprefix('Value error, ').lower()}"


def _place(location: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """Parameter names on the way to a location, and what is there: a section, or the sections of a union by kind.

    pydantic's location names the kind of a union too; the parameter's name does not.
    """
    names: list[str] = []
    here: Any = Params
    for part in location:
        if isinstance(here, dict):
            here = here.get(part)
            continue
        names.append(str(part))
        fields = getattr(here, "model_fields", {})
        here = fields[part].annotation if part in fields else None
        kinds = [one for one in get_args(here) if hasattr(one, "model_fields") and "kind" in one.model_fields]
        if kinds:
            here = {get_args(one.model_fields["kind"].annotation)[0]: one for one in kinds}
    return names, here


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
