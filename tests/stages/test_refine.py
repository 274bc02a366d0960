"""Stage `refine`: the maps of every step of every image and role, whatever the steps change."""

import json

import numpy as np
import pytest
import torch

from aha_core.attribution import Explainer
from stages import refine
from stages.context import Context
from stages.images import evaluated
from tests.stages.conftest import untrained_explainer


@pytest.mark.parametrize(
    ("what", "optimiser", "lr"), [("map", "normalised", 0.3), ("map", "adam", 0.3), ("decoder", "adam", 1e-3)]
)
def test_maps_of_every_step_are_kept(workspace, change, what, optimiser, lr):
    change("refine", change=what, optimiser=optimiser, lr=lr, steps=2, fractions=1)
    change("evaluate", images=6, classes=["predicted", "runner_up"])
    change("resources", batch_size=4, threads=1)
    ctx = Context.create(workspace, workers=0)
    untrained_explainer(ctx)
    refine.run(ctx)
    dataset, indices = evaluated(ctx, "test")
    assert json.loads((ctx.paths.refined / "images.json").read_text()) == {
        "indices": indices, "roles": ["predicted", "runner_up"], "steps": 2,
    }  # fmt: skip
    x = dataset.batch(indices)[0].float() / 255
    explainer = Explainer.load(ctx.paths.explainer, ctx.paths.target)
    classes = explainer.target(x).topk(2, dim=1).indices.T
    for role, chosen in zip(("predicted", "runner_up"), classes, strict=True):
        maps = torch.from_numpy(np.load(ctx.paths.refined / f"maps_{role}.npy"))
        assert maps.shape == (6, 3, 1, *x.shape[2:]) and maps.isfinite().all()
        assert torch.allclose(maps[:, 0], explainer.attribute(x, chosen), atol=1e-4)
        moved = (maps[:, 1:] - maps[:, :-1]).abs().flatten(2).amax(dim=2)
        assert (moved > 1e-4).all()
