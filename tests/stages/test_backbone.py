"""The foreign backbone that is trained on the data, and training with it."""

import torch
import yaml

from aha_core.attribution import Explainer
from aha_core.config import load_params
from aha_core.explainer.storage import Training, save_explainer
from aha_core.targets import Target
from aha_core.training import new_state
from stages.backbone import backbone_file, with_backbone
from stages.context import Context
from stages.train import AHA
from stages.training_job import Job, fit, job_name
from tests.conftest import ROOT


def test_backbone_is_trained_once_and_the_explainer_is_trained_on_it(workspace, change):
    paper = load_params(ROOT / "configs/embedded-paper.yaml").model_dump(mode="json")["explainer"]
    paper["backbone"]["image_size"] = 32
    raw = yaml.safe_load((workspace / "params.yaml").read_text())
    raw["explainer"] = paper | {"channels": 16, "width": 16}
    (workspace / "params.yaml").write_text(yaml.safe_dump(raw))
    change("train", steps=2, batch_size=2, report_every=1, checkpoint_every=2)
    ctx = Context.create(workspace, workers=0)

    resolved = with_backbone(ctx)
    file = backbone_file(resolved)
    assert file is not None and file.is_file() and file.is_relative_to(ctx.paths.state)
    assert backbone_file(ctx.params) is None
    before = file.stat().st_mtime_ns
    assert with_backbone(ctx) == resolved and file.stat().st_mtime_ns == before
    names = {job_name(ctx.params, AHA, ctx.paths.data, ctx.paths.target, one) for one in ([file], [])}
    assert len(names) == 2

    target = Target.load(ctx.paths.target)
    job = Job(resolved, AHA.loss, str(ctx.paths.data), str(ctx.paths.target), str(workspace / "s"), "cpu", 1)
    final = fit(job, 0, lambda row: None, lambda step: None)
    state = new_state(resolved, target, torch.device("cpu"))
    state.load_bytes(final)
    params = ctx.params
    training = Training(target.name, params.seed, params.explainer, params.ranking, params.perturbation)
    save_explainer(ctx.paths.explainer, state.average, training)
    assert str(workspace) not in (ctx.paths.explainer / "explainer.json").read_text()
    file.unlink()
    maps = Explainer.load(ctx.paths.explainer, ctx.paths.target).attribute(torch.rand(1, 3, 32, 32))
    assert maps.isfinite().all() and maps.std() > 0
    # The same architecture as the target's, and other weights: the backbone does not know the target.
    assert not torch.equal(
        state.average.backbone.model.blocks[0].attn.qkv.weight, target.model.blocks[0].attn.qkv.weight
    )


def test_other_explainers_need_no_backbone(workspace):
    ctx = Context.create(workspace)
    assert with_backbone(ctx) is ctx.params
    assert backbone_file(ctx.params) is None
