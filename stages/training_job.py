"""A run of training: what determines it, and the way to its final state in this process, under torchrun or on Ray.

Every way calls `Job.work(runtime)`. Checkpoints are kept under `<state>/training/<digest>`; the digest covers
parameters, data, target and training code, so the same command continues a killed run and any change starts anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

import aha_core
from aha_core.config import Params
from aha_core.data.dataset import PreparedImages
from aha_core.data.labels import label_map
from aha_core.runtime import LocalRuntime, Row, Runtime
from aha_core.targets import Target
from aha_core.training import Loss, train
from stages import launch

TRAINING_SECTIONS = {"seed", "data", "perturbation", "explainer", "ranking", "objective", "train"}
TRAINING_CODE = (
    "training.py", "batches.py", "objective.py", "parts.py", "masked_passes.py", "memory.py", "precision.py",
    "perturbation.py", "targets.py", "data/dataset.py",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What is trained: a loss, and the sections and modules that determine it besides those of every training."""

    name: str
    loss: Loss
    sections: tuple[str, ...] = ()
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """Picklable description of a training run. Paths are absolute: workers have other working directories."""

    params: Params
    loss: Loss
    data: str
    target: str
    storage: str
    device: str
    threads: int

    def work(self, runtime: Runtime, on_step: Callable[[int], None] = lambda step: None) -> bytes:
        """Build target and data in this process and train; returns the final state."""
        torch.set_num_threads(self.threads)
        target = Target.load(Path(self.target))
        dataset = PreparedImages(Path(self.data), "train", self.params.train.augment)
        labels = label_map(dataset.class_names, target.class_names)
        return train(self.params, target, dataset, labels, runtime, on_step, self.loss).to_bytes()


def job_name(params: Params, recipe: Recipe, data: Path, target: Path, files: list[Path]) -> str:
    """Digest of everything that determines the trained weights; files: of other weights that enter."""
    digest = hashlib.sha256()
    sections = TRAINING_SECTIONS | set(recipe.sections)
    digest.update(json.dumps(params.model_dump(mode="json", include=sections), sort_keys=True).encode())
    digest.update(recipe.name.encode())
    package = Path(aha_core.__file__).parent
    code = [package / name for name in (*TRAINING_CODE, *recipe.code)]
    code += [file for part in ("classifiers", "explainer", "ranking") for file in sorted((package / part).glob("*.py"))]
    weights = [target / "model.safetensors", *files]
    for file in [data / "manifest.json", target / "target.json", *weights, *code]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def fit(job: Job, workers: int, on_row: Callable[[Row], None], on_step: Callable[[int], None]) -> bytes | None:
    """Train to the end, wherever the last attempt stopped.

    Returns:
        The final training state, or None on the ranks of torchrun that have nothing to write.
    """
    if dist.is_torchelastic_launched():
        return launch.torchrun(job, on_row, on_step)
    if workers == 0:
        return _local(job, on_row, on_step)
    return launch.on_ray(job, workers, on_row)


def _local(job: Job, on_row: Callable[[Row], None], on_step: Callable[[int], None]) -> bytes:
    checkpoint = Path(job.storage) / "checkpoint.pt"
    runtime = LocalRuntime(
        device=torch.device(job.device),
        load=lambda: checkpoint.read_bytes() if checkpoint.is_file() else None,
        save=lambda state: launch.write_checkpoint(checkpoint, state),
        on_report=on_row,
    )
    return job.work(runtime, on_step)
