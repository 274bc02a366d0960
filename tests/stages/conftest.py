"""A small workspace with prepared data and a target, made once by the real stages."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from stages.context import Context
from tests.conftest import small_params


@pytest.fixture(autouse=True)
def threads_as_before():
    """Stages take all cores; the tests after them must not, they run beside each other."""
    import torch

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
