"""Cost of a training step, and held-out quality against training time, for two presets on the same target and images.

The step's time is split into the target's masked passes (forward and backward, nothing else) and the rest: target
features, decoder, ranking, mask upsampling, optimiser, decoding of images. Quality is SRG on held-out images (mean of
the references), predicted class, of the averaged weights after every `every` seconds of training; scoring does not
count as training time. What time is on a shared machine says `aha_core.benchmarks.measure`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aha_core.batches import Batch, batches
from aha_core.benchmarks.measure import peak_mb, timed
from aha_core.config import Params
from aha_core.data.dataset import PreparedImages
from aha_core.explainer.model import explain
from aha_core.masked_passes import MaskedPasses
from aha_core.metrics import curve_fractions, deletion_insertion, endpoint_scores, removal_order
from aha_core.precision import autocast
from aha_core.references import evaluation_reference
from aha_core.targets import Target
from aha_core.training import TrainingState, new_state, train_step

SCORED_POINTS = 11  # of a held-out curve, both ends included


class TimedPasses(MaskedPasses):
    """Masked passes that add up the time inside the target."""

    seconds = 0.0

    def score_and_gradient(
        self, images: Float[Tensor, "M 3 H W"], classes: Int[Tensor, "M"], with_gradient: bool
    ) -> tuple[Float[Tensor, "M"], Float[Tensor, "M 3 H W"] | None]:
        result, spent = timed(lambda: super(TimedPasses, self).score_and_gradient(images, classes, with_gradient),
                              images.device)  # fmt: skip
        self.seconds += spent
        return result


@dataclass(frozen=True)
class StepCost:
    """masked_passes: per training image, each a forward and a backward pass; outside: share of the step's time."""

    images_per_second: float
    peak_mb: float
    masked_passes: float
    outside: float
    micro_batch: int


@dataclass
class Trainer:
    """One preset, ready to step."""

    params: Params
    state: TrainingState
    passes: TimedPasses
    source: Iterator[Batch]

    @classmethod
    def create(cls, params: Params, target: Target, dataset: PreparedImages, labels: list[int], device: str) -> Trainer:
        where = torch.device(device)
        target.to(where)
        state = new_state(params, target, where)
        passes = TimedPasses(target, params.train.precision, params.resources.memory_gb)
        return cls(params, state, passes, batches(dataset, labels, params, rank=0, world=1, first=0))

    @torch.no_grad()
    def maps(self, x: Float[Tensor, "B 3 H W"], classes: Int[Tensor, "B"]) -> Float[Tensor, "B 1 H W"]:
        """One-pass maps of the averaged weights."""
        target, size = self.passes.target, self.params.resources.batch_size
        parts = []
        for images, chosen in zip(x.split(size), classes.split(size), strict=True):
            features = target.features(images, self.params.explainer.levels)
            parts.append(explain(self.state.average, target, images, features, chosen).float())
        return torch.cat(parts)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        batch = next(self.source)
        device = self.passes.target.mean.device
        on_device = batch.to(device)
        train_step(self.state, self.state.explainer, self.passes, on_device, self.params)


def step_cost(trainer: Trainer, steps: int) -> StepCost:
    """Mean over `steps` steps after a first one; the peak is that of the most expensive grid that was drawn."""
    trainer.step()
    passes, device = trainer.passes, trainer.passes.target.mean.device
    passes.seconds, passes.images = 0.0, 0
    _, spent = timed(lambda: trainer.run(steps), device)
    images = steps * trainer.params.train.batch_size
    share, masked = 1 - passes.seconds / spent, passes.images / images
    memory = peak_mb(lambda: trainer.run(steps), device)
    return StepCost(images / spent, memory, masked, share, passes.micro_batch)


@dataclass(frozen=True)
class HeldOut:
    """Images, their predicted classes and everything of their curves that does not depend on the map."""

    target: Target
    x: Float[Tensor, "B 3 H W"]
    classes: Int[Tensor, "B"]
    references: dict[str, Tensor]
    batch_size: int

    @classmethod
    def create(cls, params: Params, target: Target, x: Float[Tensor, "B 3 H W"]) -> HeldOut:
        batch_size = params.resources.batch_size
        with torch.no_grad():
            classes = torch.cat([target(part).argmax(dim=1) for part in x.split(batch_size)])
        names, seeds = params.evaluate.references, range(len(x))
        references: dict[str, Tensor] = {
            name: evaluation_reference(x, name, params.perturbation, seeds) for name in names
        }
        return cls(target, x, classes, references, batch_size)

    @torch.no_grad()
    def srg(self, maps: Float[Tensor, "B 1 H W"], precision: str) -> Float[Tensor, "B"]:
        """Mean over the references of insertion AUC - deletion AUC of each image, hard masks."""
        orders = removal_order(maps, list(range(len(maps))))
        counts, _ = curve_fractions(SCORED_POINTS, maps.shape[2] * maps.shape[3])

        def score(images: Tensor) -> Tensor:
            with autocast(images.device, "auto" if precision == "auto" else "fp32"):
                return self.target(images).float().softmax(dim=1)

        gains = []
        for reference in self.references.values():
            ends = endpoint_scores(score, self.x, self.classes, reference, self.batch_size)
            curves = deletion_insertion(score, self.x, orders, self.classes, reference, counts, self.batch_size, ends)
            gains.append(curves.srg)
        return torch.stack(gains).mean(dim=0)


def quality_over_time(trainer: Trainer, held_out: HeldOut, minutes: float, every: float) -> Iterator[dict[str, float]]:
    """Train for `minutes`; a row of (seconds, step, images, srg, low, high) every `every` seconds and at the end.

    low and high bound the mean by 1.96 standard errors.
    """
    params, spent, due = trainer.params, 0.0, every
    device = trainer.passes.target.mean.device
    while spent < minutes * 60 and trainer.state.step < params.train.steps:
        spent += timed(trainer.step, device)[1]
        last = spent >= minutes * 60 or trainer.state.step == params.train.steps
        if spent >= due or last:
            due = (spent // every + 1) * every
            gains = held_out.srg(trainer.maps(held_out.x, held_out.classes), params.train.precision).double()
            error = 1.96 * float(gains.std()) / math.sqrt(len(gains))
            mean, step = float(gains.mean()), trainer.state.step
            yield {
                "seconds": spent, "step": step, "images": step * params.train.batch_size, "srg": mean,
                "low": mean - error, "high": mean + error,
            }  # fmt: skip


def steps_within(params: Params, cost: StepCost, minutes: float) -> Params:
    """The same preset with as many steps as fit into the time, so that its learning-rate schedule ends there."""
    steps = max(int(minutes * 60 * cost.images_per_second / params.train.batch_size), 2)
    return params.model_copy(update={"train": params.train.model_copy(update={"steps": steps})})
