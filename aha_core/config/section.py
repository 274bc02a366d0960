"""What all sections share: no unknown names, no changes, and the types of several parameters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
ReferenceName = Literal["black", "mean", "blur"]
EvaluationReference = Literal["black", "mean", "blur", "noise"]
MeasureName = Literal["mas", "saco", "single_deletion", "pos_neg", "road", "sparseness"]
SliceName = Literal["confidence", "correct", "class", "label", "object_size", "off_centre"]
ClassRole = Literal["predicted", "runner_up", "label"]
TrainingRole = Literal["predicted", "runner_up", "label", "second", "part"]
Precision = Literal["auto", "fp32", "bf16"]
OptimiserName = Literal["normalised", "adam"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
