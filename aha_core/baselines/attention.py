"""Reading attention from timm transformers: capture, token layout, the classifier's rows.

timm computes attention with a fused kernel that never forms the softmax matrix. Inside `captured_attention` the fused
path is off, and the input of each `attn_drop` (the softmax attention) is kept, with its gradient path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aha_core.classifiers import reading
from aha_core.errors import AttributionError
from aha_core.targets import Target


@dataclass(frozen=True)
class AttentionPass:
    """One forward pass: logits, and per block the softmax attention (heads h, tokens N) and the output tokens."""

    logits: Float[Tensor, "B Y"]
    attention: tuple[Float[Tensor, "B h N N"], ...]
    outputs: tuple[Float[Tensor, "B N D"], ...]


def needs_attention(target: Target) -> str | None:
    """Reason why a target's attention cannot be read, or None."""
    model = target.model
    blocks = getattr(model, "blocks", ())
    attention = [getattr(block, "attn", None) for block in blocks]
    readable = all(hasattr(one, "attn_drop") and hasattr(one, "fused_attn") for one in attention)
    tokens = hasattr(model, "num_prefix_tokens") and hasattr(model, "patch_embed")
    later = hasattr(model, "cls_attn_blocks")  # XCiT: attention between channels, class tokens join afterwards
    if attention and readable and tokens and not later:
        return None
    return f"needs a plain vision transformer with global attention; {target.name} is not one"


@contextmanager
def captured_attention(model: Any) -> Iterator[list[Tensor]]:
    """Collect the softmax attention of each block, in order of execution; restores the model, also after errors.

    With gradients enabled the first attention becomes a leaf where nothing before it needs a gradient, so that
    gradients reach every attention of a frozen model and stop there.
    """
    captured: list[Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        attention = inputs[0]
        if torch.is_grad_enabled() and not attention.requires_grad:
            attention = attention.detach().requires_grad_()
        captured.append(attention)
        return (attention, *inputs[1:])

    with ExitStack() as restore:
        for block in model.blocks:
            restore.callback(setattr, block.attn, "fused_attn", block.attn.fused_attn)
            block.attn.fused_attn = False
            restore.callback(block.attn.attn_drop.register_forward_pre_hook(keep).remove)
        yield captured


@contextmanager
def captured_outputs(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the outputs of modules in order of execution."""
    captured: list[Tensor] = []
    with ExitStack() as restore:
        for module in modules:
            handle = module.register_forward_hook(lambda _module, _inputs, output: captured.append(output))
            restore.callback(handle.remove)
        yield captured


def attention_pass(target: Target, x: Float[Tensor, "B 3 H W"]) -> AttentionPass:
    """Forward pass with everything that attention methods read.

    Raises AttributionError when the model does not attend globally, once per block, over its tokens.
    """
    blocks = list(target.model.blocks)
    with captured_attention(target.model) as attention, captured_outputs(blocks) as outputs:
        logits = target(x)
    tokens = outputs[0].shape[1] if outputs[0].ndim == 3 else -1
    if len(attention) != len(blocks) or any(one.shape[-2:] != (tokens, tokens) for one in attention):
        raise AttributionError(f"{target.name} has no global token-to-token attention in each of its blocks")
    return AttentionPass(logits=logits, attention=tuple(attention), outputs=tuple(outputs))


def readout(target: Target, relation: Float[Tensor, "B N N"]) -> Float[Tensor, "B P"]:
    """Relation of the tokens that the classifier reads (mean over them) to the P patch tokens.

    Those rows are the class tokens (two in distilled models) where the model pools by token, else all patch tokens.
    """
    prefix = target.num_prefix_tokens
    pools_class_tokens = reading.pools_class_tokens(target.model)
    rows = relation[:, : target.num_class_tokens] if pools_class_tokens else relation[:, prefix:]
    return rows[:, :, prefix:].mean(dim=1)


def token_grid(target: Target, patches: int, size: torch.Size) -> tuple[int, int]:
    """Rows and columns of the patch tokens: the model's, or for inputs of another size those with its proportions.

    Raises AttributionError when the patches do not form such a grid.
    """
    height, width = getattr(getattr(target.model, "patch_embed", None), "grid_size", None) or (0, 0)
    if height * width != patches:
        height = round((patches * size[-2] / size[-1]) ** 0.5)
        width = patches // max(height, 1)
    if height * width != patches:
        raise AttributionError(f"{patches} patch tokens of {target.name} do not form a grid for input {tuple(size)}")
    return height, width


def token_maps(target: Target, values: Float[Tensor, "B P"], size: torch.Size) -> Float[Tensor, "B 1 h w"]:
    """Patch values on their grid (`token_grid`)."""
    return values.unflatten(1, (1, *token_grid(target, values.shape[1], size)))
