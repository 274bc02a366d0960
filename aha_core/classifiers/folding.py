"""Batch norms of a frozen classifier, folded into the convolutions before them.

In evaluation mode a batch norm is y -> a y + b by channel, with a = gamma / sqrt(variance + eps) and
b = beta - a mean; after a convolution W * x + c it is the convolution (a W) * x + (a c + b). The function is the same
up to rounding, without a pass over every activation there and back.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

TOLERANCE = 1e-4  # of the largest logit; rounding is a hundredth of it


@torch.no_grad()
def fold_batch_norms(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy without the batch norms that take a convolution's output; the model itself where there are none.

    Which convolution feeds which norm is seen in a forward pass. Where folding would change the logits (a convolution
    that changes its weight in its forward pass, an output that goes elsewhere, too), the model itself. Both are seen
    on the CPU, where float32 is float32 and the answer the same for every device.

    Args:
        model: in evaluation mode.
        x: images to see it on, normalised.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return model
    device, x = x.device, x.cpu()
    original = copy.deepcopy(model).cpu()
    folded = copy.deepcopy(original)
    for convolution, name in _pairs(folded, x):
        norm = folded.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        folded.set_submodule(name, nn.Sequential(*norm.children()))  # what timm's norms also hold, e.g. the activation
    folded.requires_grad_(False)
    before = original(x)
    change = (before - folded(x)).abs().max()
    return folded.to(device) if change <= TOLERANCE * before.abs().max() else model


def _pairs(model: nn.Module, x: Tensor) -> list[tuple[nn.Conv2d, str]]:
    """Each convolution whose very output is what a batch norm of that name takes, where both are called once."""
    outputs: list[tuple[Tensor, nn.Conv2d]] = []
    inputs: list[tuple[Tensor, str]] = []
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(lambda one, args, out: outputs.append((out, one))))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(lambda one, args, name=name: inputs.append((args[0], name))))
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    made = {id(tensor): convolution for tensor, convolution in outputs}  # they are alive: no two have the same id
    pairs = [(made[id(tensor)], name) for tensor, name in inputs if id(tensor) in made]
    calls = [convolution for _, convolution in outputs]
    names = [name for _, name in inputs]
    return [(one, name) for one, name in pairs if calls.count(one) == 1 and names.count(name) == 1]
