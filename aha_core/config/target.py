"""Sections `target` and `perturbation`: the classifier, and what a removed pixel looks like to it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aha_core.config.section import Count, Fraction, Positive, Section


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
