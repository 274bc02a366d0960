"""Stage `target`: train, download or read the classifier; write it with its accuracy and a summary."""

from __future__ import annotations

from typing import Any

import torch

from aha_core.classifiers.build import count_classes, load_state, read_weights
from aha_core.classifiers.zero_shot import create_zero_shot, read_embeddings
from aha_core.config import Params, expand_path
from aha_core.data.dataset import PreparedImages
from aha_core.data.labels import IMAGENET_CLASSES, imagenet_class_names, label_map, wordnet_ids
from aha_core.errors import DataError, TargetError
from aha_core.files import atomic_json
from aha_core.target_training import accuracy, train_classifier
from aha_core.targets import Target, create_model
from stages.context import Context
from stages.outputs import rebuild


def run(ctx: Context) -> None:
    ctx.use_all_cores()
    target, curve = build(ctx)
    target.to(ctx.device)
    test = PreparedImages(ctx.paths.data, "test")
    labels = label_map(test.class_names, target.class_names)
    scores = accuracy(target, test, labels, ctx.params.resources.batch_size, torch.device(ctx.device), ctx.progress)
    with rebuild(ctx.paths.target) as out:
        target.to("cpu").save(out, {"accuracy": scores, "summary": summary(target), "curve": curve})
    headline = {name: value for name, value in scores.items() if not isinstance(value, dict)}
    atomic_json(ctx.paths.metrics / "target.json", headline)
    ctx.say(f"{target.name}: test top-1 {scores['top1']:.3f} on {len(test)} images")
    if scores["top1"] <= 1 / target.num_classes:
        order = ", ".join(test.class_names)
        ctx.say(f"no better than chance: are its logits in the order of the data's classes, {order}?")


def build(ctx: Context) -> tuple[Target, list[dict[str, Any]]]:
    """The classifier and, where it was trained here, its training curve."""
    params = ctx.params
    size, config = params.data.image_size, params.target
    train = PreparedImages(ctx.paths.data, "train")
    if config.source != "train":
        return existing(params, train.class_names), []
    unseen = sorted(set(range(len(train.class_names))) - set(train.labels.tolist()))
    if unseen:
        raise DataError(
            f"no training images of {', '.join(train.class_names[one] for one in unseen[:5])}: a classifier cannot "
            "learn them; add images to train/, or remove these folders from val/"
        )
    curve: list[dict[str, Any]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        model = create_model(config.name, len(train.class_names), size)
    with ctx.bar() as bar:
        task = bar.add_task("target", total=config.train.epochs)

        def on_epoch(row: dict[str, Any]) -> None:
            curve.append(row)
            bar.advance(task)

        train_classifier(
            model, train, PreparedImages(ctx.paths.data, "val"), config.train, params.seed, torch.device(ctx.device),
            threads=ctx.cores, on_epoch=on_epoch,
        )  # fmt: skip
    return Target(config.name, model, size, train.class_names), curve


def existing(params: Params, data_classes: list[str]) -> Target:
    """timm's pretrained weights, or a local file whose classifier tells the number of classes."""
    config, size = params.target, params.data.image_size
    if config.zero_shot.embeddings:
        return _zero_shot(params, data_classes)
    if config.source == "pretrained":
        model: Any = create_model(config.name, IMAGENET_CLASSES, size, pretrained=True)
    else:
        file = expand_path(config.checkpoint, "target.checkpoint")
        state = read_weights(file, config.name)
        model = create_model(config.name, count_classes(state, config.name) or len(data_classes), size)
        load_state(model, state, file.name, config.name)
    target = Target(config.name, model, size, _names(model.num_classes, data_classes))
    label_map(data_classes, target.class_names)  # raises where they cannot be matched
    return target


def _names(count: int, data_classes: list[str]) -> list[str]:
    """Of a classifier without names: the data's where they are as many, ImageNet's, else numbers."""
    if count == len(data_classes) and not (count == IMAGENET_CLASSES and wordnet_ids(data_classes)):
        return data_classes
    return imagenet_class_names() if count == IMAGENET_CLASSES else [str(index) for index in range(count)]


def _zero_shot(params: Params, data_classes: list[str]) -> Target:
    """A tower with class embeddings; their names are the file's, else the data's."""
    config, size = params.target, params.data.image_size
    file = expand_path(config.zero_shot.embeddings, "target.zero_shot.embeddings")
    tower = expand_path(config.checkpoint, "target.checkpoint") if config.source == "checkpoint" else None
    embeddings, names = read_embeddings(file)
    if names is None and len(embeddings) != len(data_classes):
        raise TargetError(
            f"{file.name} has {len(embeddings)} embeddings, the data {len(data_classes)} classes; "
            "name them in the file's metadata: class_names, a JSON list"
        )
    model = create_zero_shot(config.name, size, embeddings, config.zero_shot.temperature, tower)
    return Target(config.name, model, size, names or data_classes)


def summary(target: Target) -> dict[str, Any]:
    """Facts for the report."""
    parameters = sum(weight.numel() for weight in target.model.parameters())
    return {
        "parameters": parameters,
        "classes": target.num_classes,
        "prefix_tokens": target.num_prefix_tokens,
        "levels": len(getattr(target.model, "feature_info", ())),
        "native_size": target.model.pretrained_cfg["input_size"][-1],
        "row": target.model.head_hidden_size,
    }
