"""What the class token gathers from each patch, and how much of it speaks for a class: nothing but a forward pass.

    a_lj    = softmax_j(q_class k_j)             attention of the class token in layer and head l to patch j
    e_lj(c) = a_lj <v_lj, W_l^T u_c>             direct evidence, u_c = gamma * w_c without its mean

The class token's stream is a sum of the heads' outputs W_l sum_j a_lj v_lj, so e_lj(c) is what patch j adds to logit c
through this head alone, up to the scale of the final norm (gain gamma). This is direct logit attribution (Elhage et
al., "A Mathematical Framework for Transformer Circuits", 2021) by position. Paths through later layers are not in it.
Only the class token's row of each attention is formed: the target keeps its fused attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from timm.layers.attention import Attention
from torch import Tensor, nn

from aha_core.classifiers import reading

UNIFORM = 0.05  # floor of the deviation of sqrt(P a), which is 1 everywhere for uniform attention
SILENT = 0.01  # floor of a head's mean square evidence, in units of the mean over all heads
CLAMP = 8.0  # of evidence in units of its root-mean-square


class ClassAttention(NamedTuple):
    """Attention a of the class tokens (their mean) to P patches, and the patches' values v; L heads of all layers."""

    weights: Float[Tensor, "B L P"]
    values: Float[Tensor, "B L P E"]


def reads_class_attention(model: Any) -> bool:
    """Whether the classifier reads class tokens that gather by plain attention, with heads alike in all blocks."""
    blocks = getattr(model, "blocks", ())
    attention: list[Any] = [getattr(block, "attn", None) for block in blocks]
    plain = all(type(one) is Attention and isinstance(one.norm, nn.Identity) and one.gate is None for one in attention)
    return bool(attention) and plain and reading.pools_class_tokens(model) and hasattr(model, "patch_embed")


@contextmanager
def captured_qkv(model: Any) -> Iterator[list[Tensor]]:
    """Collect what each block's qkv layer gives, [B N 3D], in order of execution; nothing in models it does not fit.

    The hooks are removed afterwards, also after errors.
    """
    captured: list[Tensor] = []
    with ExitStack() as restore:
        for block in model.blocks if reads_class_attention(model) else ():
            handle = block.attn.qkv.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
            restore.callback(handle.remove)
        yield captured


@torch.no_grad()
def class_attention(model: Any, captured: list[Tensor]) -> ClassAttention:
    """Weights and values of all heads, block by block."""
    prefix, readers = reading.prefix_tokens(model), reading.class_tokens(model)
    weights, values = [], []
    for block, qkv in zip(model.blocks, captured, strict=True):
        one = block.attn
        q, k, v = qkv.unflatten(2, (3, one.num_heads, one.head_dim)).permute(2, 0, 3, 1, 4)
        q, k = one.q_norm(q[:, :, :readers]).float(), one.k_norm(k).float()
        weights.append((q * one.scale @ k.transpose(2, 3)).softmax(dim=3)[..., prefix:].mean(dim=2))
        values.append(v[:, :, prefix:])
    return ClassAttention(torch.cat(weights, dim=1), torch.cat(values, dim=1))


@torch.no_grad()
def head_readouts(model: Any, rows: Float[Tensor, "B D"]) -> Float[Tensor, "B L E"]:
    """W_l^T u_c of every head for classifier rows w_c; LayerScale is part of W_l."""
    gains = [one.weight for one in (model.norm, model.fc_norm) if isinstance(getattr(one, "weight", None), Tensor)]
    for gain in gains:
        rows = rows * gain.float()
    directions = rows - rows.mean(dim=1, keepdim=True)
    readouts = []
    for block in model.blocks:
        scale = getattr(getattr(block, "ls1", None), "gamma", None)
        scaled = directions if scale is None else directions * scale.float()
        heads = scaled @ block.attn.proj.weight.float()
        readouts.append(heads.unflatten(1, (block.attn.num_heads, block.attn.head_dim)))
    return torch.cat(readouts, dim=1)


def evidence_channels(
    attention: ClassAttention, readouts: Float[Tensor, "B L E"], grid: tuple[int, int]
) -> Float[Tensor, "B K h w"]:
    """Two channels a head, each of order 1: sqrt(P a) standardised over the image, and e over its root-mean-square.

    Both scales have a floor, so that uniform attention and a head without evidence give zeros and no enlarged rounding.
    """
    spread = (attention.weights.shape[2] * attention.weights).sqrt()
    deviation = spread.std(dim=2, keepdim=True, correction=0)
    spread = (spread - spread.mean(dim=2, keepdim=True)) / (deviation + UNIFORM)
    evidence = attention.weights * torch.einsum("blpe,ble->blp", attention.values.float(), readouts)
    squares = evidence.square()
    scale = squares.mean(dim=2, keepdim=True) + SILENT * squares.mean(dim=(1, 2), keepdim=True)
    evidence = (evidence * torch.rsqrt(scale + 1e-20)).clamp(-CLAMP, CLAMP)
    return torch.cat([spread, evidence], dim=1).unflatten(2, grid)
