"""The methods that the stages score, check and measure, by name: AHA's maps and the baselines as one interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.attribution import Explainer
from aha_core.baselines import BaselineSettings, check_name, make_baseline, refusal
from aha_core.perturbation import reference_images
from aha_core.protocols import Attributor
from aha_core.summary import HYBRID, OURS
from aha_core.targets import Target
from stages.context import Context


def scored_methods(ctx: Context, target: Target) -> tuple[dict[str, Attributor], dict[str, str]]:
    """AHA in one pass and hybrid, the configured methods that apply to this target, and why others do not: never scored
    as zero.

    Raises ConfigError for an unknown name.
    """
    params = ctx.params
    names = list(dict.fromkeys(params.evaluate.methods + params.evaluate.slow.methods))
    for name in names:
        check_name(name)
    explainer = Explainer.load(ctx.paths.explainer, target, params.refine, params.resources.memory_gb).to(ctx.device)
    size = target.image_size
    explainer.attribute(torch.zeros(1, 3, size, size), hybrid=True)  # measures its memory, by passes that no map needs
    methods: dict[str, Attributor] = {f"{OURS}0": explainer, HYBRID: AhaMaps(explainer, hybrid=True)}
    left_out = {}
    for name in names:
        reason = refusal(name, target, baseline_settings(ctx))
        if reason:
            ctx.say(f"{name} is left out: it {reason}")
            left_out[name] = reason
        else:
            methods[name] = _built(name, target, ctx)
    return methods, left_out


def checked_methods(ctx: Context, target: Target) -> list[str]:
    """The configured methods to check that apply. Raises ConfigError for an unknown name."""
    names = ctx.params.evaluate.checks.methods
    for name in names:
        if not is_ours(name):
            check_name(name)
    return [name for name in names if not refusal(name, target, baseline_settings(ctx))]


def maker(ctx: Context, name: str) -> Callable[[Target], Attributor]:
    """Builds a method for any target of the same kind: a baseline by name, or AHA: aha and aha_t0 (one pass),
    aha_hybrid, aha_tN (N refinement steps).

    Raises ConfigError for an unknown name.
    """
    if not is_ours(name):
        return lambda target: make_baseline(name, target, baseline_settings(ctx))
    params, steps = ctx.params, step_of(name) or 0
    intact = Explainer.load(ctx.paths.explainer, ctx.paths.target).to(ctx.device)

    def build(target: Target) -> AhaMaps:
        own = Explainer(target, intact.network, intact.training, params.refine, params.resources.memory_gb)
        return AhaMaps(own, steps, name == HYBRID)

    return build


def _built(name: str, target: Target, ctx: Context) -> Attributor:
    try:
        return make_baseline(name, target, baseline_settings(ctx))
    except Exception as error:  # a method may raise anything; an interrupt is no Exception
        return NotBuilt(error)


def baseline_settings(ctx: Context) -> BaselineSettings:
    params = ctx.params
    return BaselineSettings(
        seed=params.seed,
        ig_steps=params.evaluate.ig_steps,
        rise_masks=params.evaluate.rise_masks,
        patch_grid=params.evaluate.patch_grid,
        mask_steps=params.evaluate.mask_steps,
        batch_size=params.resources.batch_size,
        reference=lambda x: reference_images(x, "black", params.perturbation),
        fastshap=ctx.paths.fastshap,
    )


def is_ours(name: str) -> bool:
    """Whether `maker` takes the name for AHA's own maps."""
    return name in ("aha", HYBRID) or step_of(name) is not None


def step_of(name: str) -> int | None:
    """N of aha_tN; None for other names."""
    steps = name.removeprefix(OURS)
    return int(steps) if name.startswith(OURS) and steps.isdigit() else None


@dataclass(frozen=True)
class AhaMaps:
    """AHA's maps as a method: in one pass, hybrid or refined."""

    explainer: Explainer
    steps: int = 0
    hybrid: bool = False

    def attribute(
        self, x: Float[Tensor, "B 3 H W"], /, target: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B 1 H W"]:
        return self.explainer.attribute(x, target, self.steps, hybrid=self.hybrid)


@dataclass(frozen=True)
class NotBuilt:
    """A method that could not be built: it fails on every image with that error, and the others are scored."""

    error: Exception

    def attribute(
        self, x: Float[Tensor, "B 3 H W"], /, target: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B 1 H W"]:
        raise self.error
