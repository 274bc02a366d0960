"""The floor of training: what a masked pass through the target costs, by number format, layout and attention kernel.

Each row is one way to run the same forward pass, and the same forward and backward pass towards the images. It is the
evidence for what `MaskedPasses`, `create_model` and `Target.folded` choose.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from aha_core.benchmarks.measure import seconds
from aha_core.config import Precision
from aha_core.precision import autocast
from aha_core.targets import Target, plain_attention


def benchmark_passes(
    target: Target, images: int, device: torch.device, compiled: bool, seed: int
) -> Iterator[dict[str, object]]:
    """Milliseconds per image of each variant; one that cannot run is a row that says why.

    Args:
        images: per pass.
        compiled: also torch.compile, which takes minutes.
    """
    size = target.image_size
    x = torch.rand(images, 3, size, size, generator=torch.Generator().manual_seed(seed)).to(device)
    target = copy.deepcopy(target).to(device)
    target.model.to(memory_format=torch.contiguous_format)
    fast = copy.deepcopy(target)
    fast.model.to(memory_format=torch.channels_last)
    variants: list[tuple[str, nn.Module, Precision, bool]] = [
        ("fp32", target, "fp32", False),
        ("bf16", target, "bf16", False),
        ("bf16, plain attention", target, "bf16", True),
        ("fp32, channels last", fast, "fp32", False),
        ("bf16, channels last", fast, "bf16", False),
    ]
    folded = fast.folded()
    if folded is not fast:
        variants.append(("fp32, channels last, folded", folded, "fp32", False))
    if compiled:
        faster: Any = torch.compile(copy.deepcopy(target))
        variants.append(("bf16, compiled", faster, "bf16", False))
    for name, model, precision, plain in variants:
        run = partial(_pass, model, x, precision, plain)
        try:
            forward, both = (seconds(partial(run, gradient), device) for gradient in (False, True))
        except Exception as error:  # compilers and number formats fail in many ways
            yield {"variant": name, "skipped": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            continue
        yield {"variant": name, "forward_ms": 1000 * forward / images, "with_gradient_ms": 1000 * both / images}


def _pass(model: nn.Module, x: Tensor, precision: Precision, plain: bool, gradient: bool) -> Tensor:
    """Probabilities of the first class, or their gradient towards the images."""
    images = x.detach().requires_grad_(gradient)
    with torch.set_grad_enabled(gradient), plain_attention(model, active=plain):
        with autocast(x.device, precision):
            logits = model(images)
        scores = logits.float().softmax(dim=1)[:, 0]
        return torch.autograd.grad(scores.sum(), images)[0] if gradient else scores
