"""Where everything lives, relative to the folder of params.yaml."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """root: the checkout, or the temporary copy in which `dvc exp run --queue/--temp` runs a stage."""

    root: Path

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def outputs(self) -> Path:
        """Everything below is made by a stage and cached by DVC."""
        return self.root / "outputs"

    @property
    def data(self) -> Path:
        return self.outputs / "data"

    @property
    def target(self) -> Path:
        return self.outputs / "target"

    @property
    def explainer(self) -> Path:
        return self.outputs / "explainer"

    @property
    def fastshap(self) -> Path:
        """The learned baseline, where it is trained."""
        return self.outputs / "fastshap"

    @property
    def run(self) -> Path:
        """The MLflow run of this explainer; later stages log into it."""
        return self.outputs / "run.json"

    @property
    def refined(self) -> Path:
        return self.outputs / "refined"

    @property
    def evaluation(self) -> Path:
        return self.outputs / "evaluation"

    @property
    def metrics(self) -> Path:
        return self.outputs / "metrics"

    @property
    def plots(self) -> Path:
        return self.outputs / "plots"

    @property
    def report(self) -> Path:
        return self.outputs / "report"

    @property
    def state(self) -> Path:
        """Checkpoints, Ray storage and the tracking database: outlives stages and temporary experiment copies.

        DVC_ROOT names the original project there.
        """
        return Path(os.environ.get("DVC_ROOT", self.root)).resolve() / ".aha"
