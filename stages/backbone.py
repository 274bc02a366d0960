"""A foreign backbone from the data itself, for `explainer.backbone.source: train`: a stand-in where none can be had."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

import aha_core
from aha_core.config import DptConfig, Params, expand_path
from aha_core.data.dataset import PreparedImages
from aha_core.files import atomic_safetensors
from aha_core.target_training import train_classifier
from aha_core.targets import create_model
from stages.context import Context


def with_backbone(ctx: Context) -> Params:
    """The parameters with a backbone that workers can read: one that is to be trained becomes a file.

    The file is kept in the state folder under a digest of everything that determines its weights. Under torchrun
    every rank without it trains the same one.
    """
    params = ctx.params
    explainer = params.explainer
    if not isinstance(explainer, DptConfig) or explainer.backbone.source != "train":
        return params
    file = ctx.paths.state / "backbones" / f"{_digest(ctx, explainer)}.safetensors"
    if not file.is_file():
        _train(ctx, explainer, file)
    backbone = explainer.backbone.model_copy(update={"source": "checkpoint", "checkpoint": str(file)})
    return params.model_copy(update={"explainer": explainer.model_copy(update={"backbone": backbone})})


def backbone_file(params: Params) -> Path | None:
    """The local file that the explainer's backbone is read from, if there is one."""
    if not isinstance(params.explainer, DptConfig) or params.explainer.backbone.source != "checkpoint":
        return None
    return expand_path(params.explainer.backbone.checkpoint, "explainer.backbone.checkpoint")


def _train(ctx: Context, explainer: DptConfig, file: Path) -> None:
    """As the stage `target` trains, with the next seed: nothing of the target enters."""
    params, name = ctx.params, explainer.backbone.name
    train, val = (PreparedImages(ctx.paths.data, split) for split in ("train", "val"))
    seed = params.seed + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(name, len(train.class_names), params.data.image_size, section="explainer.backbone")
    recipe = params.target.train
    with ctx.bar() as bar:
        task = bar.add_task("backbone", total=recipe.epochs)
        train_classifier(
            model, train, val, recipe, seed, torch.device(ctx.device), threads=ctx.cores,
            on_epoch=lambda row: bar.advance(task),
        )  # fmt: skip
    atomic_safetensors(file, model.state_dict())
    ctx.say(f"trained the backbone {name} ({recipe.epochs} epochs, seed {seed})")


def _digest(ctx: Context, explainer: DptConfig) -> str:
    facts = {
        "seed": ctx.params.seed,
        "data": ctx.params.data.model_dump(mode="json"),
        "backbone": explainer.backbone.model_dump(mode="json"),
        "recipe": ctx.params.target.train.model_dump(mode="json"),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    package = Path(aha_core.__file__).parent
    for file in (ctx.paths.data / "manifest.json", package / "target_training.py"):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
