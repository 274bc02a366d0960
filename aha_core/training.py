"""Training of the explainer: state, one step, the loop. It runs unchanged in one process, under torchrun and in Ray.

What surrounds the loop is a small `Runtime` (`aha_core.runtime`): who am I, wrap the module for gradient averaging,
take this report, give me the newest checkpoint. Data order, augmentation, class choice and noise are functions of
(seed, step, position in the global batch): the same global batch gives the same losses for any number of workers, and a
resumed run continues exactly.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aha_core.batches import Batch, batches
from aha_core.config import Params, expand_path
from aha_core.data.dataset import PreparedImages
from aha_core.errors import ConfigError, ResourceError
from aha_core.explainer import ExplainerNetwork, build_explainer
from aha_core.explainer.model import explain
from aha_core.explainer.storage import start_from
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import (
    StepDraw,
    choose_classes,
    draw_step,
    generator,
    removal_areas,
    removal_masks,
    smoothness,
)
from aha_core.parts import PARTS, outside, read_parts
from aha_core.perturbation import reference_images
from aha_core.precision import autocast
from aha_core.ranking import make_relaxation, standardise, temperature
from aha_core.runtime import Row, Runtime
from aha_core.sources import locate
from aha_core.targets import Target

Loss = Callable[[nn.Module, MaskedPasses, Batch, Params, int], tuple[Tensor, Row]]


@dataclass
class TrainingState:
    """Everything that a checkpoint holds."""

    explainer: ExplainerNetwork
    average: ExplainerNetwork
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    step: int = 0
    curve: list[Row] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        torch.save(
            {
                "explainer": self.explainer.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "step": self.step,
                "curve": self.curve,
            },
            buffer,
        )
        return buffer.getvalue()

    def load_bytes(self, checkpoint: bytes) -> None:
        saved = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
        for name in ("explainer", "average", "optimiser", "schedule"):
            getattr(self, name).load_state_dict(saved[name])
        self.step, self.curve = saved["step"], saved["curve"]


def new_state(params: Params, target: Target, device: torch.device) -> TrainingState:
    """Explainer with seeded weights or those of `train.start`, AdamW, warm-up from lr/25 and cosine decay.

    Raises AttributionError when there is no explainer at `train.start`, or one of another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        explainer = build_explainer(params.explainer, target).to(device)
    if params.train.start:
        start_from(locate(expand_path(params.train.start, "train.start"))[0], explainer, params.explainer)
    average = copy.deepcopy(explainer).requires_grad_(False)
    train = params.train
    optimiser = torch.optim.AdamW(explainer.parameters(), lr=train.lr, weight_decay=train.weight_decay)
    steps, warmup = max(train.steps, 2), train.warmup
    if warmup * steps == 1:  # torch divides by the steps between the first and the end of the warm-up
        warmup = 0.0
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=train.lr, total_steps=steps, pct_start=warmup, div_factor=25, cycle_momentum=False
    )
    return TrainingState(explainer, average, optimiser, schedule)


@dataclass(frozen=True)
class Explained:
    """What a step explains, whatever the loss: the maps of R classes of each of B images, role by role.

    draw: the step's random draw; probabilities: of the unperturbed images; x, classes, maps: R B of each.
    inside, confidence: see `parts.Parts`; 0 where another class than a part's is explained.
    """

    draw: StepDraw
    reference: Float[Tensor, "B 3 H W"]
    probabilities: Float[Tensor, "B Y"]
    by_role: Int[Tensor, "R B"]
    x: Float[Tensor, "K 3 H W"]
    classes: Int[Tensor, "K"]
    maps: Float[Tensor, "K 1 H W"]
    inside: Float[Tensor, "B 1 2 2"]
    confidence: Float[Tensor, "R B"]


def explained(module: nn.Module, passes: MaskedPasses, batch: Batch, params: Params, step: int) -> Explained:
    """Maps of one rank's batch.

    One forward pass of the target gives prediction, features and the score of the unperturbed image; all explained
    classes share it, and their R B maps are one batch.
    """
    objective, precision = params.objective, params.train.precision
    target, images = passes.target, batch.images
    draw = draw_step(params.ranking, objective, params.seed, step)
    with torch.no_grad(), autocast(images.device, precision):
        features = target.features(images, params.explainer.levels)
    probabilities = features.logits.float().softmax(dim=1)
    located = torch.tensor([role == "part" for role in objective.classes], device=images.device)
    mosaics = batch.mosaics & located.any()
    chosen = _draws(11, PARTS, batch, params.seed, step)
    parts = read_parts(target, images, mosaics, probabilities.argmax(dim=1), chosen, precision)
    by_role = choose_classes(probabilities, batch.labels, parts.classes, objective.classes)
    confidence = located[:, None] * parts.confidence
    if objective.classes_per_image == "one":
        role = _draws(3, len(by_role), batch, params.seed, step)[None]
        by_role, confidence = by_role.gather(0, role), confidence.gather(0, role)
    roles, classes = len(by_role), by_role.flatten()
    x = images.repeat(roles, 1, 1, 1)
    with autocast(images.device, precision):
        maps = explain(module, target, x, features.repeat(roles), classes).float()
    reference = reference_images(images, draw.reference, params.perturbation)
    return Explained(draw, reference, probabilities, by_role, x, classes, maps, parts.inside, confidence)


def training_loss(
    module: nn.Module, passes: MaskedPasses, batch: Batch, params: Params, step: int
) -> tuple[Tensor, Row]:
    """Loss of one rank's batch and the values worth a curve: deletion and insertion AUC, smoothness, map scale."""
    objective, ranking = params.objective, params.ranking
    one = explained(module, passes, batch, params, step)
    maps, draw, roles = one.maps, one.draw, len(one.by_role)
    tau = temperature(ranking, step / max(params.train.steps - 1, 1))
    noise = [generator(params.seed, 4, step, role, place) for role in range(roles) for place in batch.positions]
    relaxation = make_relaxation(ranking, tau, draw.grid**2, noise)
    masks = removal_masks(maps, relaxation, draw.grid, draw.fractions, ranking.standardise)
    scores = passes(one.x, one.classes, masks, one.reference.repeat(roles, 1, 1, 1))
    deletion, insertion = removal_areas(scores, draw.weights)

    penalised = standardise(maps) if ranking.standardise else maps
    values = {
        "deletion_auc": deletion.mean(),
        "insertion_auc": insertion.mean(),
        "smoothness": smoothness(penalised, objective.smoothness_kernel).mean(),
        "map_std": maps.detach().flatten(1).std(dim=1).mean(),
    }
    loss = values["deletion_auc"] + 1 - values["insertion_auc"] + objective.smoothness * values["smoothness"]
    if objective.parts:
        share = outside(maps, one.inside.repeat(roles, 1, 1, 1))
        values["outside"] = (one.confidence.flatten() * share).mean()
        loss = loss + objective.parts * values["outside"]
    if draw.end_weight:  # both end points of a fixed grid of fractions: f_c(x) and f_c(r)
        ends = of_roles(one.probabilities + blank_probabilities(passes, one.reference), one.by_role)
        weighted = ends.mean() * draw.end_weight
        values["deletion_auc"], values["insertion_auc"] = deletion.mean() + weighted, insertion.mean() + weighted
    return loss, {"loss": float(loss.detach())} | {name: float(value.detach()) for name, value in values.items()}


def _draws(stream: int, below: int, batch: Batch, seed: int, step: int) -> Int[Tensor, "B"]:
    """A random number in [0, below) for each image."""
    drawn = [int(torch.randint(below, (), generator=generator(seed, stream, step, place))) for place in batch.positions]
    return torch.tensor(drawn, device=batch.images.device)


@torch.no_grad()
def blank_probabilities(passes: MaskedPasses, reference: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B Y"]:
    """Class probabilities of the reference images, which is what is left when everything is removed."""
    with autocast(reference.device, passes.precision):
        return passes.target(reference).float().softmax(dim=1)


def of_roles(probabilities: Float[Tensor, "B Y"], by_role: Int[Tensor, "R B"]) -> Float[Tensor, "R B"]:
    """The value of each image's explained classes."""
    return probabilities[torch.arange(len(probabilities), device=probabilities.device), by_role]


def check_divisible(batch_size: int, workers: int) -> None:
    """Raise ConfigError where a global batch has no equal shares for this many workers."""
    if batch_size % workers:
        raise ConfigError(
            f"train.batch_size = {batch_size} does not divide by {workers} workers; "
            f"use a multiple, e.g. {batch_size // workers * workers or workers}"
        )


def train(
    params: Params,
    target: Target,
    dataset: PreparedImages,
    labels: list[int],
    runtime: Runtime,
    on_step: Callable[[int], None] = lambda step: None,
    loss: Loss = training_loss,
) -> TrainingState:
    """Train the explainer to the last step, from the newest checkpoint if there is one.

    Args:
        labels: logit index of each of the dataset's class folders.
        on_step: called on every rank after every step, with the number of steps done.
        loss: of one rank's batch, with the values worth a curve.

    Raises:
        ConfigError: the global batch does not divide by the number of workers, or is larger than the data.
        ResourceError: the loss is not finite, or the device is out of memory.
    """
    config = params.train
    check_divisible(config.batch_size, runtime.world)
    target = target.to(runtime.device).folded()
    passes = MaskedPasses(target, config.precision, params.resources.memory_gb)
    state = new_state(params, target, runtime.device)
    checkpoint = runtime.restore()
    if checkpoint is not None:
        state.load_bytes(checkpoint)
    module = runtime.wrap(state.explainer)
    recent: list[Row] = []
    for batch in batches(dataset, labels, params, runtime.rank, runtime.world, first=state.step):
        on_device = batch.to(runtime.device)
        try:
            recent.append(train_step(state, module, passes, on_device, params, loss))
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"the explainer's own maps do not fit into memory: {len(batch.images)} of {config.batch_size} images "
                "per worker; raise --workers, or lower train.batch_size"
            ) from error
        on_step(state.step)
        last = state.step == config.steps
        due = last or state.step % config.checkpoint_every == 0
        if due or state.step % config.report_every == 0:
            row = _summary(recent, runtime, state)
            recent.clear()
            state.curve.append(row)
            runtime.report(row, state.to_bytes() if due and runtime.rank == 0 else None)
    return state


def train_step(
    state: TrainingState, module: nn.Module, passes: MaskedPasses, batch: Batch, params: Params,
    loss_of: Loss = training_loss,
) -> Row:  # fmt: skip
    """One optimiser step: loss, clipped gradient, AdamW, learning rate, averaged weights."""
    config = params.train
    loss, row = loss_of(module, passes, batch, params, state.step)
    if not torch.isfinite(loss):
        raise ResourceError(f"the loss is {row['loss']} at step {state.step}; lower train.lr = {config.lr}")
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(state.explainer.parameters(), config.clip)
    rate = state.schedule.get_last_lr()[0]
    state.optimiser.step()
    if state.step + 1 < config.steps:
        state.schedule.step()
    state.step += 1
    decay = min(config.ema, state.step / (state.step + 10))  # the average must not remember the random start
    with torch.no_grad():
        torch._foreach_lerp_(list(state.average.parameters()), list(state.explainer.parameters()), 1 - decay)
    return row | {"gradient_norm": float(norm), "lr": float(rate)}


def _summary(recent: list[Row], runtime: Runtime, state: TrainingState) -> Row:
    """Mean over the steps since the last point and over the ranks."""
    names = sorted(recent[0])
    values = torch.tensor([[row[name] for name in names] for row in recent], dtype=torch.float64).mean(dim=0)
    values = runtime.mean(values)
    return {"step": state.step} | dict(zip(names, values.tolist(), strict=True))
