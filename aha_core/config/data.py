"""Sections `data`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aha_core.config.section import Count, Fraction, Section


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
    masks: str = Field(description="folder of one mask per image at the image's path, any ending; empty: no masks")
    boxes: str = Field(description="CSV file with columns image,x0,y0,x1,y1 in pixels, ends exclusive; empty: no boxes")
    void: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        description="mask value of pixels that do not count; null: every value but 0 is the object"
    )

    @model_validator(mode="after")
    def _masks_or_boxes(self) -> FolderConfig:
        if self.masks and self.boxes:
            raise ValueError("masks and boxes are both set; empty one of them")
        return self


class DataConfig(Section):
    source: Literal["synthetic", "folder"] = Field(description="procedural objects with masks, or class folders")
    image_size: Annotated[int, Field(ge=16, le=1024)] = Field(
        description="side of the square model input, pixels; in a file also `target`: that of timm's weights of "
        "target.name"
    )
    synthetic: SyntheticConfig
    folder: FolderConfig
