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
    """Attention a of the class tokens (mean) to P patches by L heads of all layers; values v of each layer, D = H E.

    Values are views of what the layers computed, and all products with them are of whole layers, with the other factor
    in block-diagonal form: copying keys and values into one matrix for each head took longer than their products.
    """

    weights: Float[Tensor, "B L P"]
    values: tuple[Float[Tensor, "B P D"], ...]


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
        q, k, v = qkv.chunk(3, dim=2)
        q, k = (
            norm(part.unflatten(2, (one.num_heads, one.head_dim))).float()
            for norm, part in ((one.q_norm, q[:, :readers]), (one.k_norm, k))
        )
        columns = block_diagonal(q.transpose(1, 2) * one.scale)
        attention = (k.flatten(2) @ columns).unflatten(2, (one.num_heads, readers)).softmax(dim=1)
        weights.append(attention[:, prefix:].mean(dim=3).transpose(1, 2))
        values.append(v[:, prefix:])
    return ClassAttention(torch.cat(weights, dim=1), tuple(values))


def block_diagonal(vectors: Float[Tensor, "B H R E"]) -> Float[Tensor, "B HE HR"]:
    """R vectors of each of H heads as columns that are 0 outside of the head's own rows."""
    heads = torch.eye(vectors.shape[1], device=vectors.device, dtype=vectors.dtype)
    return torch.einsum("bhre,hg->bhegr", vectors, heads).flatten(3).flatten(1, 2)


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
    centred = spread - spread.mean(dim=2, keepdim=True)
    deviation = centred.square().mean(dim=2, keepdim=True).sqrt()  # `Tensor.std` takes several times as long
    spread = centred / (deviation + UNIFORM)
    per_layer = readouts.unflatten(1, (len(attention.values), -1)).unbind(dim=1)
    read = [v.float() @ block_diagonal(u[:, :, None]) for v, u in zip(attention.values, per_layer, strict=True)]
    evidence = attention.weights * torch.cat(read, dim=2).transpose(1, 2)
    squares = evidence.square()
    scale = squares.mean(dim=2, keepdim=True) + SILENT * squares.mean(dim=(1, 2), keepdim=True)
    evidence = (evidence * torch.rsqrt(scale + 1e-20)).clamp(-CLAMP, CLAMP)
    return torch.cat([spread, evidence], dim=1).unflatten(2, grid)
