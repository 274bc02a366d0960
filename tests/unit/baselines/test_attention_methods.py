"""Rollout, Chefer and LeGrad against plain float64 re-derivations, and the capture's clean-up."""

import pytest
import timm
import torch
from torch import Tensor

from aha_core.baselines import make_baseline
from aha_core.baselines.attention import attention_pass, captured_attention, needs_attention, token_maps
from aha_core.errors import AttributionError

DEPTH, HEADS, WIDTH = 3, 3, 24


def plain_vit(model, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """A ViT from its weights alone: logits, and per block the softmax attention and the logits of the mean token."""
    weights = {key: value.double() for key, value in model.state_dict().items()}

    def linear(t: Tensor, name: str) -> Tensor:
        return t @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(t: Tensor, name: str) -> Tensor:
        centred = t - t.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    patches = torch.nn.functional.conv2d(
        x, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=16
    )
    tokens = patches.flatten(2).transpose(1, 2)
    tokens = torch.cat([weights["cls_token"].expand(len(x), -1, -1), tokens], dim=1) + weights["pos_embed"]
    matrices, outputs = [], []
    for block in range(DEPTH):
        name = f"blocks.{block}"
        parts = linear(norm(tokens, f"{name}.norm1"), f"{name}.attn.qkv").chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        matrix = (q @ k.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        matrices.append(matrix)
        tokens = tokens + linear((matrix @ v).transpose(1, 2).flatten(2), f"{name}.attn.proj")
        hidden = torch.nn.functional.gelu(linear(norm(tokens, f"{name}.norm2"), f"{name}.mlp.fc1"))
        tokens = tokens + linear(hidden, f"{name}.mlp.fc2")
        outputs.append(tokens)

    def logits_of(t: Tensor) -> Tensor:
        return linear(norm(t, "norm"), "head")

    layer_logits = [logits_of(t.mean(dim=1)) for t in outputs]
    return logits_of(tokens[:, 0]), matrices, layer_logits


def enlarge(values: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(
        values.view(-1, 1, 4, 4), size=(64, 64), mode="bilinear", align_corners=False
    )


@pytest.fixture
def plain(vit, images):
    """The re-derived pass; gradients reach every attention matrix."""
    return plain_vit(vit.model, vit.normalise(images.double()).requires_grad_())


def close(ours: Tensor, theirs: Tensor) -> None:
    theirs = theirs.detach()
    scale = theirs.abs().max()
    torch.testing.assert_close(ours.double() / scale, theirs / scale, atol=1e-5, rtol=0)


CLASSES = torch.tensor([4, 0, 2])


def test_plain_pass_is_the_model(vit, images, plain):
    torch.testing.assert_close(vit(images).double(), plain[0], atol=1e-5, rtol=1e-5)


def test_rollout(vit, images, settings, plain):
    identity = torch.eye(17, dtype=torch.float64)
    relation = identity
    for matrix in plain[1]:
        relation = ((matrix.mean(1) + identity) / 2) @ relation
    close(make_baseline("rollout", vit, settings).attribute(images), enlarge(relation[:, 0, 1:]))


def test_chefer(vit, images, settings, plain):
    logits, matrices, _ = plain
    rows = []
    for b in range(3):  # one image at a time
        gradients = torch.autograd.grad(logits[b, CLASSES[b]], matrices, retain_graph=True)
        relation = torch.eye(17, dtype=torch.float64)
        for matrix, gradient in zip(matrices, gradients, strict=True):
            relation = relation + (gradient[b] * matrix[b]).clamp(min=0).mean(0) @ relation
        rows.append(relation[0, 1:])
    close(make_baseline("chefer", vit, settings).attribute(images, CLASSES), enlarge(torch.stack(rows)))


def test_legrad(vit, images, settings, plain):
    _, matrices, layer_logits = plain
    total = torch.zeros(3, 16, dtype=torch.float64)
    for matrix, logits in zip(matrices[-2:], layer_logits[-2:], strict=True):
        score = logits.gather(1, CLASSES[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, matrix, retain_graph=True)
        total += gradient.clamp(min=0).mean(dim=(1, 2))[:, 1:] / 2
    close(make_baseline("legrad", vit, settings).attribute(images, CLASSES), enlarge(total))


def test_attention_is_restored_after_an_exception(vit, images):
    fused = [block.attn.fused_attn for block in vit.model.blocks]
    assert any(fused), "this timm would not use fused attention; the test has nothing to restore"
    with pytest.raises(RuntimeError, match="on purpose"), captured_attention(vit.model):
        assert not any(block.attn.fused_attn for block in vit.model.blocks)
        raise RuntimeError("on purpose")
    assert [block.attn.fused_attn for block in vit.model.blocks] == fused
    assert all(not block.attn.attn_drop._forward_pre_hooks for block in vit.model.blocks)


def test_captured_rows_sum_to_one(vit, images):
    one = attention_pass(vit, images)
    assert len(one.attention) == DEPTH and len(one.outputs) == DEPTH
    for attention in one.attention:
        assert attention.shape == (3, HEADS, 17, 17) and attention.requires_grad
        torch.testing.assert_close(attention.sum(-1), torch.ones(3, HEADS, 17))


@pytest.mark.parametrize("name", ["rollout", "chefer", "legrad", "grad_cam"])
@pytest.mark.parametrize(
    ("prefix", "kwargs"),
    [
        (0, {"class_token": False, "global_pool": "avg"}),
        (1, {"global_pool": "avg"}),
        (5, {"reg_tokens": 4}),
        (1, {"img_size": (64, 96), "patch_size": 8}),
    ],
)
def test_prefix_tokens_pooling_and_grid_are_read_from_the_model(name: str, prefix: int, kwargs, tiny_vit, settings):
    target = tiny_vit(**kwargs)
    assert target.num_prefix_tokens == prefix
    width = kwargs.get("img_size", (64, 64))[1]
    images = torch.rand((2, 3, 64, width), generator=torch.Generator().manual_seed(2))
    maps = make_baseline(name, target, settings).attribute(images, torch.tensor([1, 2]))
    assert maps.shape == (2, 1, 64, width) and maps.isfinite().all()
    assert (maps.flatten(1).std(dim=1) > 0).all()


def test_distilled_models_are_read_at_both_class_tokens(make_target, images, settings):
    target = make_target("deit_tiny_distilled_patch16_224", img_size=64, embed_dim=24, depth=2, num_heads=3)
    identity = torch.eye(18)
    relation = identity
    with torch.no_grad():
        for attention in attention_pass(target, images).attention:
            relation = ((attention.mean(1) + identity) / 2) @ relation
    expected = enlarge(relation[:, :2, 2:].mean(dim=1))
    close(make_baseline("rollout", target, settings).attribute(images), expected.double())


def test_hierarchical_transformers_are_refused(tiny_swin):
    assert "is not one" in str(needs_attention(tiny_swin))


def test_patches_that_form_no_grid_are_refused(vit):
    with pytest.raises(AttributionError, match="15 patch tokens"):
        token_maps(vit, torch.zeros(1, 15), torch.Size((1, 3, 64, 64)))


def test_timm_convstem_model_of_the_package(make_target, images, settings):
    assert timm.is_model("vit_convstem_mini")
    target = make_target("vit_convstem_mini")
    for name in ("rollout", "chefer", "legrad", "grad_cam"):
        assert make_baseline(name, target, settings).attribute(images).isfinite().all()
