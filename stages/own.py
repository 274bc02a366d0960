"""The explainer and the target that a user names on the command line; the pipeline's where nothing is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from aha_core.attribution import Explainer
from aha_core.classifiers.build import count_classes, create_model, known_name, load_state, read_weights
from aha_core.data.labels import IMAGENET_CLASSES, imagenet_class_names
from aha_core.errors import TargetError
from aha_core.sources import DEFAULT, PARAMS, SHIPPED, locate, pretrained_facts, shipped_names, shipped_target
from aha_core.targets import Target
from stages.context import Context
from stages.paths import Paths

FROM_MLFLOW = ("models:/", "runs:/")
SECTION = "--target"  # in messages about names


def parameters(root: Path, named: Path | None, explainer: str | None = None) -> Path | None:
    """The parameter file of a command that needs no pipeline: as named; that of one of the library's explainers where
    this explains, so that it is refined by its own settings; else the folder's own (None).
    """
    source = source_of(Paths(root), explainer)
    library = shipped_target(locate(source)[0]) if source in shipped_names() else None
    if named is None and library:
        return SHIPPED / library / PARAMS
    return named if named or Paths(root).params.is_file() else SHIPPED / DEFAULT / PARAMS


def source_of(paths: Paths, explainer: str | None) -> str:
    """Where the explainer is: as named; else the pipeline's, and before there is one the library's."""
    trained = (paths.explainer / "explainer.json").is_file()
    return explainer or (str(paths.explainer) if trained else DEFAULT)


def load_explainer(ctx: Context, explainer: str | None, target: str | None, weights: Path | None) -> Explainer:
    """An explainer on the context's device.

    Args:
        explainer: folder, name, or a model of MLflow (models:/NAME@ALIAS, runs:/ID/explainer); where None the
            pipeline's, and before there is one the library's.
        target: folder of a target or timm name; where None what lies beside the explainer, what one of the library's
            is for, else the pipeline's.
        weights: safetensors file for that architecture, instead of those that it has.

    Raises:
        TargetError, AttributionError: files are missing or do not fit together.
        TrackingError: the model is not in the registry.
    """
    source = source_of(ctx.paths, explainer)
    if source.startswith(FROM_MLFLOW):
        from stages.tracking import fetch_model  # MLflow takes seconds to import

        source = str(fetch_model(ctx.tracking_uri, source))
    folder, beside = locate(source)
    shipped = shipped_target(folder)
    size = ctx.params.data.image_size if shipped is None else pretrained_facts(shipped)[0]
    name: str | None = target or shipped
    home = beside or ctx.paths.target
    if name and (Path(name) / "target.json").is_file():
        home, name = Path(name), None
    chosen: Target | Path = home if name is None and weights is None else _build(home, name, weights, size)
    refinement, memory = ctx.params.refine, ctx.params.resources.memory_gb
    return Explainer.load(folder, chosen, refinement, memory).to(ctx.device)


def _build(home: Path, name: str | None, weights: Path | None, size: int) -> Target:
    """A timm model of that name and image size, with timm's own weights or those of a file; without a name what the
    target in the folder `home` is, with the file's weights.
    """
    facts = home / "target.json"
    known: dict[str, Any] = json.loads(facts.read_text()) if facts.is_file() else {}
    own = known if name is None else {}
    if name is None:
        if not known:
            raise TargetError(f"no target in {home}; say by --target which architecture the weights are for")
        name, size = str(known["name"]), int(known["image_size"])
    known_name(name, SECTION)
    if weights is None:
        count = pretrained_facts(name)[1]
        model: Any = create_model(name, count, size, pretrained=True, section=SECTION)
        return Target(name, model, size, _class_names(count, None, known))
    state = read_weights(weights, name)
    if "zero_shot" in own:
        return Target.rebuild(own, state, weights.name)
    rows = count_classes(state, name)
    if rows is None:
        raise TargetError(f"{weights.name} has no classifier of the architecture {name}")
    model = create_model(name, rows, size, section=SECTION)
    load_state(model, state, weights.name, name)
    with safe_open(weights, "pt") as opened:
        listed = (opened.metadata() or {}).get("class_names")
    target = Target(name, model, size, _class_names(rows, listed, known))
    if own:
        target.set_normalisation(own["mean"], own["std"])
    return target


def _class_names(count: int, listed: str | None, known: dict[str, Any]) -> list[str]:
    """The file's own (metadata class_names, a JSON list), those of a known target, ImageNet's, else numbers."""
    names = json.loads(listed) if listed else known.get("class_names", [])
    if len(names) == count:
        return [str(name) for name in names]
    return imagenet_class_names() if count == IMAGENET_CLASSES else [str(index) for index in range(count)]
