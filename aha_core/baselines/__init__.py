"""The methods that AHA is compared with, behind one registry. A new one is a file here and a line in `BASELINES`."""

from __future__ import annotations

import difflib

from aha_core.baselines import (
    chefer,
    extremal,
    fastshap,
    floors,
    grad_cam,
    gradients,
    greedy,
    integrated_gradients,
    legrad,
    occlusion,
    rise,
    rollout,
    score_cam,
    surrogates,
)
from aha_core.baselines.base import BaselineSettings, BaselineSpec
from aha_core.errors import AttributionError, ConfigError
from aha_core.protocols import Attributor
from aha_core.targets import Target

BASELINES: dict[str, BaselineSpec] = {
    spec.name: spec
    for spec in (
        *floors.SPECS,
        *gradients.SPECS,
        integrated_gradients.SPEC,
        *grad_cam.SPECS,
        score_cam.SPEC,
        rollout.SPEC,
        chefer.SPEC,
        legrad.SPEC,
        rise.SPEC,
        occlusion.SPEC,
        *surrogates.SPECS,
        fastshap.SPEC,
        extremal.SPEC,
        greedy.SPEC,
    )
}


def refusal(name: str, target: Target, settings: BaselineSettings) -> str | None:
    """Why the baseline of that name cannot explain this target; None for other names, which `make_baseline` refuses."""
    spec = BASELINES.get(name)
    return (spec.applies_to(target) or spec.ready(settings)) if spec else None


def check_name(name: str) -> None:
    """Raise ConfigError, with the nearest name, where there is no baseline of that name."""
    if name not in BASELINES:
        near = difflib.get_close_matches(name, BASELINES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(BASELINES)}"
        raise ConfigError(f"unknown method {name!r}; {hint}")


def make_baseline(name: str, target: Target, settings: BaselineSettings) -> Attributor:
    """The baseline of that name for this target.

    Raises ConfigError for an unknown name and AttributionError when it does not apply to the target.
    """
    check_name(name)
    reason = refusal(name, target, settings)
    if reason:
        raise AttributionError(f"{name} {reason}; remove it from evaluate.methods")
    return BASELINES[name].factory(target, settings)


__all__ = ["BASELINES", "BaselineSettings", "BaselineSpec", "check_name", "make_baseline", "refusal"]
