"""Class evidence: equal to what the target's own attention layers add to the class token, and absent elsewhere."""

import pytest
import torch

from aha_core.baselines.attention import captured_attention, captured_outputs
from aha_core.classifiers import evidence
from aha_core.targets import Target, create_model

PLAIN, DISTILLED, REGISTERS = (
    "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2",
)  # fmt: skip
SIZE = 112


def make_target(name: str) -> Target:
    torch.manual_seed(0)
    model = create_model(name, 5, SIZE)
    with torch.no_grad():  # attention that is not uniform, LayerScale that is not its initial constant
        for key, weight in model.named_parameters():
            weight.mul_(4.0) if key.endswith("qkv.weight") else weight.add_(0.05 * torch.randn_like(weight))
    return Target(name, model, SIZE, list("abcde"))


@pytest.fixture
def x():
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [PLAIN, DISTILLED, REGISTERS])
def test_heads_add_up_to_what_attention_writes_into_the_class_token(name, x):
    target = make_target(name)
    model, prefix, readers = target.model, target.num_prefix_tokens, target.num_class_tokens
    rows = target.class_rows(torch.tensor([3, 1]), torch.zeros(2, target.num_classes), 0.0)
    attention = target.features(x, (1.0,)).attention
    readouts = evidence.head_readouts(model, rows)
    written = [getattr(block, "ls1", None) or block.attn for block in model.blocks]
    layers = [block.attn.qkv for block in model.blocks]
    capture = captured_attention(model), captured_outputs(written), captured_outputs(layers)
    with torch.no_grad(), capture[0] as full, capture[1] as outputs, capture[2] as qkv:
        target(x)
    u = rows * model.norm.weight
    u = u - u.mean(dim=1, keepdim=True)
    heads = model.blocks[0].attn.num_heads
    for layer, block in enumerate(model.blocks):
        places = slice(layer * heads, (layer + 1) * heads)
        values = qkv[layer].unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)[2]
        own = attention.values[layer].unflatten(2, (heads, -1)).transpose(1, 2)
        from_prefix = full[layer][:, :, :readers, :prefix].mean(dim=2)[..., None] * values[:, :, :prefix]
        from_patches = attention.weights[:, places, :, None] * own
        read = torch.einsum("bhpe,bhe->b", from_patches, readouts[:, places])
        read = read + torch.einsum("bhpe,bhe->b", from_prefix, readouts[:, places])
        bias = block.attn.proj.bias * getattr(getattr(block, "ls1", None), "gamma", 1.0)
        total = ((outputs[layer][:, :readers].mean(dim=1) - bias) * u).sum(dim=1)
        torch.testing.assert_close(read, total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "vit_medium_patch16_gap_240"])
def test_models_without_a_class_token_have_none(name):
    size = 240 if "240" in name else 64
    target = Target(name, create_model(name, 5, size), size, list("abcde"))
    features = target.features(torch.rand(1, 3, size, size), (1.0,))
    assert features.attention is None
    assert target.class_evidence(features, target.class_rows(torch.tensor([0]), features.logits, 0.0)) is None


def test_channels_depend_on_the_class_are_bounded_and_leave_no_hook(x):
    target = make_target(PLAIN)
    features = target.features(x, (1.0,)).repeat(2)
    channels = target.class_evidence(features, target.class_rows(torch.tensor([0, 0, 1, 1]), features.logits, 0.0))
    assert channels.shape == (4, 2 * 12 * 3, 7, 7)
    spread, direct = channels.chunk(2, dim=1)
    assert torch.equal(spread[:2], spread[2:])
    assert not torch.allclose(direct[:2], direct[2:], atol=0.1)
    assert channels.abs().max() <= evidence.CLAMP + 1e-4
    assert not any(block.attn.qkv._forward_hooks for block in target.model.blocks)


def test_hooks_are_removed_after_an_error(x):
    target = make_target(PLAIN)
    with pytest.raises(ZeroDivisionError), evidence.captured_qkv(target.model):
        raise ZeroDivisionError
    assert not any(block.attn.qkv._forward_hooks for block in target.model.blocks)


def test_uniform_attention_and_silent_heads_give_zeros():
    weights = torch.full((1, 2, 9), 1 / 9) * (1 + 1e-6 * torch.randn(1, 2, 9))
    values = torch.cat([torch.randn(1, 9, 4), 1e-6 * torch.randn(1, 9, 4)], dim=2)
    channels = evidence.evidence_channels(evidence.ClassAttention(weights, (values,)), torch.randn(1, 2, 4), (3, 3))
    spread, direct = channels.chunk(2, dim=1)
    assert spread.abs().max() < 1e-3
    assert direct[:, 1].abs().max() < 1e-3 < direct[:, 0].abs().max()
