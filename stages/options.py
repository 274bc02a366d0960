"""Options that commands of several groups share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ParamsFile = Annotated[Path | None, typer.Option("--params", help="Parameter file instead of params.yaml.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
