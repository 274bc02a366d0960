"""Model-randomisation sanity, cascading from the top (Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018).

    for each depth k:  rho_k = Spearman(map of the target, map of the target with its top k groups randomised)
                       q_k = SSIM of the same two maps, each scaled to [0, 1]

Both must fall towards 0 with k: a map that stays the same does not depend on what the classifier has learned. A group
is a child of the model (head, norm, stem, …) or, where a child is a sequence of blocks, each block. Every weight
tensor of a group is replaced by a seeded normal draw with the tensor's own mean and standard deviation, so activations
keep their scale; biases and the scales of norms likewise. Running statistics of batch norm stay.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aha_core.metrics.correlation import spearman, ssim, unit_range
from aha_core.protocols import Attributor


@dataclass(frozen=True)
class Randomised:
    """One depth of the cascade: the last randomised group, and the likeness of each image's map to the original."""

    group: str
    spearman: Float[Tensor, "B"]
    ssim: Float[Tensor, "B"]


def parameter_groups(model: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """Named groups from the input to the output, in the order of definition; a shared parameter counts once."""
    seen: set[int] = set()

    def fresh(parameters: Iterator[nn.Parameter]) -> list[nn.Parameter]:
        new = [one for one in parameters if id(one) not in seen]
        seen.update(id(one) for one in new)
        return new

    groups = [("embedding", fresh(model.parameters(recurse=False)))]
    for name, child in model.named_children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            groups += [(f"{name}.{part}", fresh(block.parameters())) for part, block in child.named_children()]
        else:
            groups.append((name, fresh(child.parameters())))
    return [(name, parameters) for name, parameters in groups if parameters]


def randomised(model: nn.Module, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield (group, model) with one more group randomised each time, top first; the model given is never changed.

    The same copy is yielded every time: use it before the next step.
    """
    twin = copy.deepcopy(model)
    for name, parameters in reversed(parameter_groups(twin)):
        generator = torch.Generator().manual_seed(_seed(seed, name))
        with torch.no_grad():
            for parameter in parameters:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                spread = parameter.std(correction=0) if parameter.numel() > 1 else parameter.abs().mean()
                parameter.copy_(parameter.mean() + spread * noise)
        yield name, twin


def model_randomisation(
    make_method: Callable[[nn.Module], Attributor],
    model: nn.Module,
    images: Float[Tensor, "B 3 H W"],
    classes: Int[Tensor, "B"],
    seed: int,
    depths: int | None = None,
) -> list[Randomised]:
    """Likeness of a method's maps to those of ever more randomised models.

    Args:
        make_method: builds the method for a model; for baselines a closure that puts the model into a `Target`.
        model: the classifier, never changed.
        classes: explained throughout, fixed from the intact model.
        depths: how many of the cascade's steps are measured, evenly spread with the last; all where None.

    Maps are compared as they are, larger = more important: absolute values would fold the least important pixels of a
    map with mean 0, such as AHA's, onto the most important.
    """
    total = len(parameter_groups(model))
    count = min(depths or total, total)
    wanted = {(place + 1) * total // count - 1 for place in range(count)}
    original = make_method(model).attribute(images, classes)
    results = []
    for depth, (name, twin) in enumerate(randomised(model, seed)):
        if depth in wanted:
            maps = make_method(twin).attribute(images, classes)
            rho = spearman(original.flatten(1), maps.flatten(1))
            results.append(Randomised(name, rho, ssim(unit_range(original), unit_range(maps))))
    return results


def _seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
