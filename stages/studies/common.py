"""What studies share: held-out images, methods, changed targets, and a cache that an interrupted study continues from.

The cache lies in `<state>/studies/<digest>`; the digest covers the study's settings, its parameters, target, explainer,
data and code, so a result can only be read back where the same command would compute the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

import aha_core
from aha_core.attribution import Explainer
from aha_core.baselines import make_baseline, refusal
from aha_core.config import MeasureName, RefineConfig
from aha_core.data.dataset import PreparedImages
from aha_core.data.labels import label_map
from aha_core.errors import ConfigError, DataError
from aha_core.evaluation import Attempt, ChunkEvaluator
from aha_core.files import atomic_safetensors
from aha_core.fine_tuning import Fetch, FineTuning, fine_tune
from aha_core.protocols import Attributor
from aha_core.shortcut import Marker, Poisoning, learn_shortcut
from aha_core.targets import Target
from stages.context import Context
from stages.images import chunk_starts, chunks
from stages.methods import baseline_settings
from stages.outputs import rebuild
from stages.parts import CODE

Settings = dict[str, Any]
TARGET_CODE = ("batches.py", "data/dataset.py", "fine_tuning.py", "shortcut.py", "target_training.py", "targets.py")
SCORES = ("deletion", "insertion", "srg")
RESULT_CODE = tuple(dict.fromkeys((*TARGET_CODE, *CODE, "benchmarks/training.py", "findings.py")))


@dataclass(frozen=True)
class HeldOutImages:
    """x: in [0, 1], on the CPU; labels: logit indices; indices: places in the test split."""

    x: Float[Tensor, "N 3 S S"]
    labels: Int[Tensor, "N"]
    indices: list[int]

    @classmethod
    def read(cls, ctx: Context, target: Target, indices: list[int]) -> HeldOutImages:
        dataset, labels = PreparedImages(ctx.paths.data, "test"), logit_labels(ctx, target, "test")
        return cls(dataset.batch(indices)[0].float() / 255, labels[indices], indices)

    def chunks(self, size: int) -> Iterator[tuple[int, HeldOutImages]]:
        """(first place, images) of at most `size` images."""
        for start in range(0, len(self.indices), size):
            own = slice(start, start + size)
            yield start, HeldOutImages(self.x[own], self.labels[own], self.indices[own])


@dataclass(frozen=True)
class Chunk:
    """Images with the predicted classes, and what scores maps of them by the metric contract."""

    start: int
    x: Float[Tensor, "B 3 S S"]
    classes: Int[Tensor, "B"]
    evaluator: ChunkEvaluator

    def scores(self, method: str, maps: Float[Tensor, "B 1 S S"], free: tuple[str, ...] = ()) -> Float[Tensor, "K B"]:
        """`SCORES` of each image, means of the references, and these columns of measures without a reference.

        Raises AttributionError for values that are not finite.
        """
        found = self.evaluator.score(method, Attempt(maps, {}))  # rows: all images of a reference, then of the next
        columns = torch.tensor([[row[name] for row in found.rows] for name in SCORES], dtype=torch.float64)
        more = torch.tensor([[row[name] for row in found.free] for name in free], dtype=torch.float64)
        return torch.cat([columns.view(len(SCORES), -1, len(maps)).mean(dim=1), more.view(-1, len(maps))])


def scored_chunks(
    ctx: Context, dataset: PreparedImages, indices: list[int], target: Target, measures: tuple[MeasureName, ...] = ()
) -> Iterator[Chunk]:
    """Deletion and insertion as `aha evaluate` scores them, and these measures alone."""
    params, starts = ctx.params, chunk_starts(ctx, len(indices))
    config = params.evaluate.model_copy(update={"measures": measures})
    batches, scorer = chunks(ctx, dataset, indices, target, "predicted", starts), ctx.scorer(target)
    for start, (batch, classes) in zip(starts, batches, strict=True):
        evaluator = ChunkEvaluator(
            scorer, replace(batch, masks=None), "predicted", classes, config, params.perturbation, params.seed
        )
        yield Chunk(start, batch.x, classes, evaluator)


def logit_labels(ctx: Context, target: Target, split: str) -> Int[Tensor, "N"]:
    """The target's logit index of every image of a split."""
    dataset = PreparedImages(ctx.paths.data, split)
    return torch.tensor(label_map(dataset.class_names, target.class_names))[dataset.labels]


def clean_explainer(ctx: Context, folder: Path | None = None) -> Explainer:
    """The pipeline's explainer, or another folder's, with the pipeline's target.

    Raises TargetError, AttributionError when one of them is not there.
    """
    explainer = Explainer.load(
        folder or ctx.paths.explainer, ctx.paths.target, ctx.params.refine, ctx.params.resources.memory_gb
    )
    return explainer.to(ctx.device)


def around(explainer: Explainer, target: Target) -> Explainer:
    """The same network, with the same settings, for another target."""
    return Explainer(target, explainer.network, explainer.training, explainer.refinement, explainer.passes.memory_gb)


def with_refinement(explainer: Explainer, settings: RefineConfig) -> Explainer:
    """The same network and target, refined otherwise."""
    return Explainer(explainer.target, explainer.network, explainer.training, settings, explainer.passes.memory_gb)


def maps_over_steps(explainer: Explainer, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    """(images, classes) to maps after 0 .. `steps` refinement steps."""
    return lambda x, classes: explainer.refine(x, explainer.attribute(x, classes), classes, steps).maps


def baselines(ctx: Context, target: Target, names: tuple[str, ...]) -> tuple[dict[str, Attributor], dict[str, str]]:
    """The methods that apply to this target, and why others do not. Raises ConfigError for unknown ones."""
    methods, left_out = {}, {}
    for name in names:
        reason = refusal(name, target, baseline_settings(ctx))
        if reason:
            left_out[name] = reason
        else:
            methods[name] = make_baseline(name, target, baseline_settings(ctx))
    return methods, left_out


def recipe_of(ctx: Context, steps: int, lr: float | None, seed_offset: int) -> FineTuning:
    """Fine-tuning as the target was trained; a pretrained one with a tenth of `target.train.lr` and whole images.

    A target that was trained on images with holes has learnt to overlook things put upon an object, so it needs its
    full learning rate to learn a marker.
    """
    train, trained_here = ctx.params.target.train, ctx.params.target.source == "train"
    usual = train.lr if trained_here else train.lr / 10
    return FineTuning(
        steps=steps, batch_size=ctx.params.train.batch_size, lr=usual if lr is None else lr,
        weight_decay=train.weight_decay, erase=train.erase if trained_here else 0.0,
        seed=ctx.params.seed + seed_offset,
    )  # fmt: skip


def fine_tuned(
    ctx: Context, target: Target, recipe: FineTuning, marker: Marker | None = None, poisoning: Poisoning | None = None
) -> tuple[Target, Path]:
    """The target trained on, with a marker in the data where one is given, and the folder that keeps it."""
    settings: Settings = {"recipe": asdict(recipe)}
    if marker and poisoning:
        settings |= {"marker": asdict(marker), "poisoning": asdict(poisoning)}
    folder = ctx.paths.state / "studies" / "targets" / digest(ctx, settings, [], TARGET_CODE)
    if not (folder / "target.json").is_file():
        dataset, labels = PreparedImages(ctx.paths.data, "train"), logit_labels(ctx, target, "train")
        fetch: Fetch = lambda indices: dataset.batch(indices)[0].to(ctx.device).float() / 255  # noqa: E731
        with ctx.bar() as bar:
            task = bar.add_task("fine-tuning", total=recipe.steps)
            on_step: Callable[[int, float], None] = lambda step, loss: bar.update(task, completed=step)  # noqa: E731
            if marker and poisoning:
                tuned = learn_shortcut(target, fetch, labels, marker, poisoning, recipe, on_step)
            else:
                tuned = fine_tune(target, fetch, labels, recipe, on_step=on_step)
        with rebuild(folder) as fresh:
            tuned.save(fresh)
    return Target.load(folder).to(ctx.device), folder


def class_accuracy(target: Target, images: HeldOutImages, batch_size: int, device: str) -> float:
    """Top-1 on these images."""
    with torch.no_grad():
        found = [target(part.to(device)).argmax(dim=1).cpu() for part in images.x.split(batch_size)]
    return float((torch.cat(found) == images.labels).double().mean())


class Cache:
    """Tensors by name in one folder, each file there whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tensors(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `make` gave under this name, now or in an earlier run."""
        file = self.folder / f"{name}.safetensors"
        if not file.is_file():
            atomic_safetensors(file, make())
        return load_file(file)


def cache(ctx: Context, study: str, settings: Settings, explainers: list[Path]) -> Cache:
    """The cache of a study with these settings on these explainers' folders."""
    params = ctx.params.model_dump(mode="json", include={"seed", "perturbation", "refine", "evaluate"})
    params["batch_size"] = ctx.params.resources.batch_size
    folders = [*explainers, ctx.paths.fastshap]
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()) if file.is_file()]
    name = digest(ctx, {"study": study, "params": params} | settings, files, RESULT_CODE)
    return Cache(ctx.paths.state / "studies" / name)


def digest(ctx: Context, settings: Settings, files: list[Path], code: tuple[str, ...]) -> str:
    """Of settings, the prepared data, the pipeline's target, more files and code."""
    total = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    package = Path(aha_core.__file__).parent
    own = [ctx.paths.data / "manifest.json", ctx.paths.target / "target.json", ctx.paths.target / "model.safetensors"]
    for file in [*own, *files, *(file for pattern in code for file in sorted(package.glob(pattern)))]:
        total.update(file.name.encode())
        with file.open("rb") as stream:
            while piece := stream.read(1 << 20):
                total.update(piece)
    return total.hexdigest()[:12]


def named_folders(given: list[str], flag: str) -> dict[str, Path]:
    """NAME=DIR arguments. Raises ConfigError for another form, DataError for a folder that is not there."""
    folders: dict[str, Path] = {}
    for one in given:
        name, separator, folder = one.partition("=")
        if not separator or not name or name in folders:
            raise ConfigError(f"{flag} {one!r}: expected NAME=FOLDER with a name of its own")
        folders[name] = Path(folder).expanduser()
        if not folders[name].is_dir():
            raise DataError(f"{flag} {one!r}: there is no such folder")
    return folders
