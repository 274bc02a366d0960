"""Stage `train`: the explainer on the frozen target, on as many workers as wanted."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from aha_core.config import Params, expand_path
from aha_core.errors import AttributionError, ConfigError
from aha_core.explainer.storage import WEIGHTS, Training, check_start, save_explainer
from aha_core.files import atomic_json, atomic_text
from aha_core.runtime import Row
from aha_core.sources import locate
from aha_core.targets import Target
from aha_core.training import TrainingState, check_divisible, new_state, training_loss
from stages.backbone import backbone_file, with_backbone
from stages.context import Context
from stages.outputs import exclusive, rebuild
from stages.tracking import Tracker
from stages.training_job import Job, Recipe, fit, job_name

REQUIREMENTS = [
    "torch", "torchvision", "timm", "safetensors", "pydantic", "pyyaml", "jaxtyping", "einops", "numpy", "pandas",
    "pillow", "matplotlib", "scipy",
]  # fmt: skip


AHA = Recipe("aha", training_loss)


@dataclass(frozen=True)
class Trained:
    """A finished training: the target's name, its state, its MLflow run (open), its digest."""

    target: str
    state: TrainingState
    tracker: Tracker
    name: str


def run(ctx: Context) -> None:
    paths = ctx.paths
    with trained(ctx, AHA) as done:
        if done is None:
            return
        with rebuild(paths.explainer) as out:
            save(ctx, done, out)
        atomic_text(paths.plots / "training.csv", to_csv(done.state.curve))
        atomic_json(paths.run, {"run_id": done.tracker.run_id, "digest": done.name})
        last = done.state.curve[-1]
        scores = {key: round(last[key], 4) for key in ("loss", "deletion_auc", "insertion_auc")}
        atomic_json(paths.metrics / "train.json", scores)
        with ctx.console.status("logging the model to MLflow"):
            log(done.tracker, ctx)
    ctx.say(f"trained {ctx.params.train.steps} steps, last loss {last['loss']:.4f}; MLflow run {done.tracker.run_id}")


@contextmanager
def trained(ctx: Context, recipe: Recipe) -> Iterator[Trained | None]:
    """Train to the end, wherever the last attempt stopped; None on the ranks of torchrun that have nothing to write.

    The checkpoints are removed when the block has ended well. Raises ResourceError while another process has this
    training.
    """
    paths, params = ctx.paths, ctx.params
    target = Target.load(paths.target)
    start = start_folder(ctx)
    resolved = with_start(with_backbone(ctx), start)
    check_divisible(params.train.batch_size, max(ctx.workers, 1))  # what cannot work is refused before workers start
    if start:
        check_start(start, params.explainer)
    if params.explainer.kind == "features":
        new_state(resolved, target, torch.device("cpu"))
    weights = [backbone_file(resolved), start / WEIGHTS if start else None]
    name = job_name(params, recipe, paths.data, paths.target, [file for file in weights if file])
    storage = paths.state / "training" / name
    job = Job(resolved, recipe.loss, str(paths.data), str(paths.target), str(storage), ctx.device, ctx.threads)
    if dist.is_torchelastic_launched() and int(os.environ["RANK"]) != 0:
        fit(job, 0, lambda row: None, lambda step: None)
        yield None
        return
    with exclusive(storage.with_name(f"{name}.lock"), "this training"):
        if ctx.fresh and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            shutil.rmtree(storage, ignore_errors=True)
        final, tracker = followed(ctx, job, f"{recipe.name}-{name}")
        state = new_state(with_start(resolved, None), target, torch.device("cpu"))
        state.load_bytes(final)
        yield Trained(target.name, state, tracker, name)
        shutil.rmtree(storage)


def followed(ctx: Context, job: Job, title: str) -> tuple[bytes, Tracker]:
    """Final state and MLflow run of a training, whose rows go to MLflow and to a bar."""
    storage = Path(job.storage)
    if any(storage.glob("**/*.pt")):
        ctx.say(f"continuing the run in {storage.relative_to(ctx.paths.state)} (--fresh starts anew)")
    tracker = open_run(ctx, storage, title)
    with ctx.bar() as bar:
        task = bar.add_task("train", total=job.params.train.steps)

        def on_row(row: Row) -> None:
            tracker.log_row(row)
            bar.update(task, completed=row["step"], description=f"loss {row['loss']:.3f}")

        try:
            final = fit(job, ctx.workers, on_row, lambda step: bar.update(task, completed=step))
        except BaseException as error:
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
    assert final is not None
    return final, tracker


def start_folder(ctx: Context) -> Path | None:
    """Where the explainer lies whose weights training starts from, absolute: workers have other working directories.

    Raises AttributionError when there is none, ConfigError when it is the one that this stage replaces.
    """
    start = ctx.params.train.start
    if not start:
        return None
    folder = expand_path(start, "train.start")
    if folder.resolve() in (ctx.paths.explainer, ctx.paths.explainer.parent):
        raise ConfigError(f"train.start = {start!r} is what training replaces; copy that explainer to another folder")
    try:
        return locate(folder)[0].resolve()
    except AttributionError as error:
        raise AttributionError(f"train.start = {start!r}: no explainer there and none of that name") from error


def with_start(params: Params, folder: Path | None) -> Params:
    """The parameters with another folder to start from; None starts from random weights."""
    return params.model_copy(update={"train": params.train.model_copy(update={"start": str(folder) if folder else ""})})


def save(ctx: Context, done: Trained, folder: Path) -> None:
    """The averaged network and what later uses need to know of its training."""
    params = ctx.params
    training = Training(done.target, params.seed, params.explainer, params.ranking, params.perturbation)
    save_explainer(folder, done.state.average, training)


def log(tracker: Tracker, ctx: Context) -> None:
    """The model, the curve and the parameters of a finished training."""
    paths = ctx.paths
    tracker.log_model(paths.explainer, paths.target, ctx.params.data.image_size, REQUIREMENTS)
    tracker.log_files([paths.plots / "training.csv", paths.params], "training")
    tracker.finish()


def open_run(ctx: Context, storage: Path, name: str) -> Tracker:
    """The MLflow run of this training, also across kills: its id is kept beside the checkpoints."""
    note = storage / "mlflow_run.json"
    known = json.loads(note.read_text())["run_id"] if note.is_file() else None
    tracker = Tracker(ctx.tracking_uri, ctx.paths.state / "mlartifacts", known, name=name)
    tracker.reopen()
    atomic_json(note, {"run_id": tracker.run_id})
    tracker.log_params(ctx.params.model_dump(mode="json", exclude={"resources"}) | {"workers": ctx.workers})
    return tracker


def to_csv(curve: list[Row]) -> str:
    """Rounded, so that the same run gives the same bytes on any number of workers."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(curve[0]), lineterminator="\n")
    writer.writeheader()
    for row in curve:
        writer.writerow({name: int(value) if name == "step" else f"{value:.5g}" for name, value in row.items()})
    return stream.getvalue()
