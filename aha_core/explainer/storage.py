"""A trained explainer on disk: explainer.safetensors (what was trained) and explainer.json (how).

The frozen backbone of a `dpt` explainer is not among the trained weights. With source: pretrained the folder names it
(timm's name with its tag; timm fetches it, once per machine). Weights from anywhere else might not be there later, so
the folder gets its own backbone.safetensors. Either way explainer.json holds the weights' SHA-256, and other weights
under the same name are refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from aha_core.config import DptConfig, ExplainerConfig, PerturbationConfig, RankingConfig, parse_explainer
from aha_core.errors import AttributionError
from aha_core.explainer.backbone import Backbone, build_backbone
from aha_core.explainer.base import ExplainerNetwork
from aha_core.explainer.dpt import DptExplainer
from aha_core.explainer.model import build_explainer
from aha_core.files import atomic_json, atomic_safetensors
from aha_core.targets import Target

WEIGHTS, BACKBONE = "explainer.safetensors", "backbone.safetensors"


@dataclass(frozen=True)
class Training:
    """What later uses need to know of the training.

    target: name of the classifier; seed: of every random draw.
    """

    target: str
    seed: int
    explainer: ExplainerConfig
    ranking: RankingConfig
    perturbation: PerturbationConfig


def save_explainer(folder: Path, network: ExplainerNetwork, training: Training) -> None:
    """Write the files, each whole or not at all; the target is saved apart."""
    atomic_safetensors(folder / WEIGHTS, network.state_dict())
    facts: dict[str, Any] = {
        "target": training.target,
        "seed": training.seed,
        "explainer": training.explainer.model_dump(mode="json"),
        "ranking": training.ranking.model_dump(mode="json"),
        "perturbation": training.perturbation.model_dump(mode="json"),
    }
    if isinstance(network, DptExplainer) and isinstance(training.explainer, DptConfig):
        facts["backbone_sha256"] = network.backbone.digest()
        if training.explainer.backbone.source != "pretrained":
            atomic_safetensors(folder / BACKBONE, network.backbone.model.state_dict())
    atomic_json(folder / "explainer.json", facts)


def load_explainer(folder: Path, target: Target) -> tuple[ExplainerNetwork, Training]:
    """Read what `save_explainer` wrote.

    Raises:
        AttributionError: files are missing, unreadable or of another version, the weights were trained for another
            target's features, or the backbone has other weights than in training.
        TargetError: the backbone cannot be had.
    """
    training, facts = read_facts(folder)
    network = build_explainer(training.explainer, target, _backbone(folder, training, facts))
    try:
        network.load_state_dict(_weights(folder))
    except RuntimeError as error:
        raise AttributionError(
            f"the explainer in {folder} was trained for {training.target}, not for {target.name}: {error}"
        ) from error
    return network, training


def fitted(trained: ExplainerNetwork, training: Training, target: Target) -> ExplainerNetwork:
    """The same weights around another target, in memory of their own; a foreign backbone is shared on the same device.

    Raises AttributionError when the target's features have other shapes.
    """
    backbone = trained.backbone if isinstance(trained, DptExplainer) else None
    if backbone is not None and backbone.mean.device != target.mean.device:
        backbone = backbone.copy()  # to be moved without the other network's
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, then replaced
        network = build_explainer(training.explainer, target, backbone)
    try:
        network.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise AttributionError(
            f"the explainer was trained for {training.target}, not for {target.name}: {error}"
        ) from error
    return network


def read_facts(folder: Path) -> tuple[Training, dict[str, Any]]:
    """What explainer.json holds. Raises AttributionError when it is missing or of another version."""
    if not (folder / "explainer.json").is_file():
        raise AttributionError(f"no explainer in {folder}; run `aha train` first")
    facts = json.loads((folder / "explainer.json").read_text())
    try:
        training = Training(
            target=facts["target"],
            seed=facts["seed"],
            explainer=parse_explainer(facts["explainer"]),
            ranking=RankingConfig.model_validate(facts["ranking"]),
            perturbation=PerturbationConfig.model_validate(facts["perturbation"]),
        )
    except (KeyError, ValidationError) as error:
        raise AttributionError(
            f"{folder / 'explainer.json'} is of another version of AHA; run `aha train` again ({error})"
        ) from error
    return training, facts


def check_start(folder: Path, config: ExplainerConfig) -> dict[str, Any]:
    """The facts of an explainer whose weights a network of this configuration can start from.

    Raises AttributionError when its section `explainer` says another network.
    """
    training, facts = read_facts(folder)
    if _network(training.explainer) != _network(config):
        raise AttributionError(
            f"train.start: the explainer in {folder} has another network than the section `explainer`; its own is "
            f"{training.explainer.model_dump(mode='json')}"
        )
    return facts


def _network(config: ExplainerConfig) -> dict[str, Any]:
    """What of the configuration makes the network; the backbone's weights are compared by their digest."""
    facts = config.model_dump(mode="json", exclude={"dropout"})
    for name in ("source", "checkpoint"):
        facts.get("backbone", {}).pop(name, None)
    return facts


def start_from(folder: Path, network: ExplainerNetwork, config: ExplainerConfig) -> None:
    """Give an untrained network the weights of a trained one.

    Raises AttributionError when that is another network, was trained for features of another shape, or with another
    foreign backbone.
    """
    facts = check_start(folder, config)
    if isinstance(network, DptExplainer) and network.backbone.digest() != facts.get("backbone_sha256"):
        raise AttributionError(f"train.start: the explainer in {folder} was trained on a backbone with other weights")
    try:
        network.load_state_dict(_weights(folder))
    except RuntimeError as error:
        raise AttributionError(
            f"train.start: the explainer in {folder} was trained for {facts['target']}, whose features have other "
            f"shapes: {error}"
        ) from error


def _weights(folder: Path) -> dict[str, Tensor]:
    file = folder / WEIGHTS
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise AttributionError(f"{file} is missing or unreadable ({error}); run `aha train` again") from error


def _backbone(folder: Path, training: Training, facts: dict[str, Any]) -> Backbone | None:
    if not isinstance(training.explainer, DptConfig):
        return None
    config = training.explainer.backbone
    backbone = build_backbone(config, own_copy=folder / BACKBONE)
    if backbone.digest() != facts.get("backbone_sha256"):
        raise AttributionError(
            f"the explainer in {folder} was trained on other weights of {config.name} than those found now; put the "
            f"safetensors file of the training there as {BACKBONE}"
        )
    return backbone
