"""A trained explainer on disk: explainer.safetensors (weights) and explainer.json (how it was trained)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from aha_core.config import ExplainerConfig, PerturbationConfig, RankingConfig
from aha_core.errors import AttributionError
from aha_core.explainer.model import FeatureExplainer, build_explainer
from aha_core.files import atomic_json, atomic_safetensors
from aha_core.targets import Target


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


def save_explainer(folder: Path, network: FeatureExplainer, training: Training) -> None:
    """Write both files, each whole or not at all; the target is saved apart."""
    atomic_safetensors(folder / "explainer.safetensors", network.state_dict())
    facts = {
        "target": training.target,
        "seed": training.seed,
        "explainer": training.explainer.model_dump(mode="json"),
        "ranking": training.ranking.model_dump(mode="json"),
        "perturbation": training.perturbation.model_dump(mode="json"),
    }
    atomic_json(folder / "explainer.json", facts)


def load_explainer(folder: Path, target: Target) -> tuple[FeatureExplainer, Training]:
    """Read what `save_explainer` wrote.

    Raises:
        AttributionError: files are missing, or the weights were trained for another target's features.
    """
    if not (folder / "explainer.json").is_file():
        raise AttributionError(f"no explainer in {folder}; run `aha train` first")
    facts = json.loads((folder / "explainer.json").read_text())
    training = Training(
        target=facts["target"],
        seed=facts["seed"],
        explainer=ExplainerConfig.model_validate(facts["explainer"]),
        ranking=RankingConfig.model_validate(facts["ranking"]),
        perturbation=PerturbationConfig.model_validate(facts["perturbation"]),
    )
    network = build_explainer(training.explainer, target)
    try:
        network.load_state_dict(load_file(folder / "explainer.safetensors"))
    except RuntimeError as error:
        raise AttributionError(
            f"the explainer in {folder} was trained for {training.target}, not for {target.name}: {error}"
        ) from error
    return network, training
