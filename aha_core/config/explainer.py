"""Section `explainer`: one of two kinds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from aha_core.config.section import Count, Fraction, Section


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
