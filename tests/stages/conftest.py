"""A small workspace with prepared data and a target, made once by the real stages."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from stages import evaluate
from stages.context import Context
from stages.images import evaluated
from tests.conftest import small_params
from tests.stages.quiet import METHODS, Quiet


@pytest.fixture(autouse=True)
def threads_as_before():
    """Stages take all cores; the tests after them must not, they run beside each other."""
    yield
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def prepared_workspace(tmp_path_factory) -> Path:
    from stages import prepare, target

    root = tmp_path_factory.mktemp("workspace")
    (root / "params.yaml").write_text(yaml.safe_dump(small_params()))
    ctx = Context.create(root)
    prepare.run(ctx)
    target.run(ctx)
    return root


@pytest.fixture
def workspace(prepared_workspace, tmp_path, monkeypatch) -> Path:
    """A copy of its own, as the working directory."""
    root = tmp_path / "w"
    shutil.copytree(prepared_workspace, root)
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return root


@pytest.fixture
def change(workspace):
    """Change parameters of the workspace: change("train", steps=3)."""

    def apply(section: str, **values) -> None:
        raw = yaml.safe_load((workspace / "params.yaml").read_text())
        raw[section] |= values
        (workspace / "params.yaml").write_text(yaml.safe_dump(raw))

    return apply


def untrained_explainer(ctx: Context) -> None:
    """An explainer of the workspace's target with its first weights."""
    from aha_core.explainer import build_explainer
    from aha_core.explainer.storage import Training, save_explainer
    from aha_core.targets import Target

    target, own = Target.load(ctx.paths.target), ctx.params
    torch.manual_seed(own.seed)
    training = Training(target.name, own.seed, own.explainer, own.ranking, own.perturbation)
    save_explainer(ctx.paths.explainer, build_explainer(own.explainer, target), training)


def refined(workspace: Path) -> Context:
    """A context of one process with an untrained explainer and seeded maps as AHA's: step 0 noise, step 1 the mask."""
    ctx = Context.create(workspace, workers=0)
    untrained_explainer(ctx)
    dataset, indices = evaluated(ctx, "test")
    noise = np.random.default_rng(0).random((len(indices), 1, 1, 32, 32), np.float32)
    masks = np.stack([dataset.mask(index).numpy() for index in indices])[:, None, None].astype(np.float32)
    ctx.paths.refined.mkdir(parents=True, exist_ok=True)
    roles = ctx.params.evaluate.classes
    for role in roles:
        np.save(ctx.paths.refined / f"maps_{role}.npy", np.concatenate([noise, masks], axis=1))
    facts = {"indices": indices, "roles": roles, "steps": 1}
    (ctx.paths.refined / "images.json").write_text(json.dumps(facts))
    return ctx


@pytest.fixture
def evaluation(workspace, change, monkeypatch) -> Context:
    """Ready to be evaluated: four images at a time, few methods, nothing written to MLflow."""
    monkeypatch.setattr(evaluate, "Tracker", Quiet)
    change("evaluate", methods=METHODS, measures=["mas"], slices=["correct"], points=3, bootstrap=10)
    checks = {"methods": [], "images": 1, "mosaics": 1, "sides": [2], "draws": 1, "depths": 1}
    change("evaluate", checks=checks)
    change("resources", batch_size=4, threads=1)
    return refined(workspace)
