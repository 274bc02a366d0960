"""Stage `evaluate`: the metric contract for AHA at every refinement step and for the baselines.

Scoring fills a store of parts (`stages.parts`), in this process or by workers, and may be cut off at any moment;
writing puts the parts together.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from aha_core.checks import check_method
from aha_core.config import Params, Precision
from aha_core.cost import measured
from aha_core.errors import DataError
from aha_core.evaluation import ChunkEvaluator, attempt_maps
from aha_core.precision import autocast
from aha_core.protocols import Attributor
from aha_core.selection import evaluation_indices
from aha_core.summary import OURS
from aha_core.targets import Target
from stages import launch
from stages.context import Context
from stages.images import chunk_starts, chunks, evaluated
from stages.methods import checked_methods, maker, scored_methods, step_of
from stages.parts import PartStore, Plan, store_folder
from stages.paths import Paths
from stages.results import check_failures, collect, write
from stages.tracking import Tracker

POOL = 4  # images per cell of the mosaics, of which the most confident ones are taken


def run(ctx: Context) -> None:
    torch.set_num_threads(ctx.scoring_threads)
    target = Target.load(ctx.paths.target).to(ctx.device)
    tracker = Tracker.for_stage(ctx.tracking_uri, ctx.paths)
    methods, left_out = scored_methods(ctx, target)
    _, indices = evaluated(ctx, "test")
    plan = planned(ctx, refined_steps(ctx, indices), methods, len(indices))
    store = PartStore(store_folder(ctx))
    if ctx.fresh:
        shutil.rmtree(store.folder, ignore_errors=True)
    again = store.drop_failed(ctx.params.evaluate.classes, plan)
    if store.folder.is_dir():
        ctx.say(f"continuing the evaluation in {store.folder.relative_to(ctx.paths.state)} (--fresh starts anew)")
    if again:
        ctx.say(f"{again} parts with failed images are tried again")
    to_check = checked_methods(ctx, target)
    if ctx.workers:
        on_workers(ctx, store, plan, to_check)
    score(ctx, target, methods, plan, store)  # nothing, after workers
    checked = check(ctx, target, store, to_check)
    scores = collect(ctx, store, plan, target.image_size)
    error = precision_error(ctx, target, store) if ctx.params.evaluate.precision != "fp32" else None
    summary = write(ctx, scores, checked, left_out, error, tracker)
    check_failures(summary, ctx.params.evaluate.max_failed)
    shutil.rmtree(store.folder, ignore_errors=True)


def planned(ctx: Context, steps: int, methods: Iterable[str], count: int) -> Plan:
    """What is scored on each chunk: AHA after 0 .. steps refinement steps, and methods, slow ones on the first only."""
    own, slow = [f"{OURS}{step}" for step in range(steps + 1)], ctx.params.evaluate.slow
    return {
        start: own + [name for name in methods if name not in own and (start < slow.images or name not in slow.methods)]
        for start in chunk_starts(ctx, count)
    }


def on_workers(ctx: Context, store: PartStore, plan: Plan, to_check: list[str]) -> None:
    """Fill the store by as many Ray workers as have something to do, each with its own target and methods."""
    roles = ctx.params.evaluate.classes
    unfinished = {start for role in roles for start in store.unfinished(role, plan)}
    unchecked = [name for name in to_check if store.load_check(name) is None]
    workers = min(ctx.workers, max(len(unfinished), len(unchecked)))
    if not workers:
        return
    threads = ctx.scoring_threads
    work = partial(share, ctx.paths.root, ctx.params, ctx.device, threads, plan, to_check, store)
    with ctx.bar() as bar:
        task = bar.add_task(f"{workers} workers", total=len(roles) * sum(map(len, plan.values())))
        launch.spread(work, workers, ctx.device, threads, lambda: bar.update(task, completed=store.count_parts()))


def share(
    root: Path, params: Params, device: str, threads: int, plan: Plan, to_check: list[str],
    store: PartStore, rank: int, world: int,
) -> None:  # fmt: skip
    """One worker's share: every `world`-th chunk of images and every `world`-th checked method."""
    torch.set_num_threads(threads)
    ctx = Context(Paths(root), params, 0, device, threads, "", console=Console(quiet=True))
    target = Target.load(ctx.paths.target).to(device)
    methods, _ = scored_methods(ctx, target)
    score(ctx, target, methods, plan, store, rank, world)
    check(ctx, target, store, to_check[rank::world])


def score(
    ctx: Context, target: Target, methods: dict[str, Attributor], plan: Plan, store: PartStore,
    rank: int = 0, world: int = 1,
) -> None:  # fmt: skip
    """Fill the store with every part of this rank's chunks that is not there yet.

    Ranks share nothing but the store, whose content does not depend on their number.
    """
    params, paths = ctx.params, ctx.paths
    dataset, indices = evaluated(ctx, "test")
    mine = dict(list(plan.items())[rank::world])
    left = {role: store.unfinished(role, mine) for role in params.evaluate.classes}
    scorer = ctx.scorer(target)
    with ctx.bar() as bar:
        task = bar.add_task("evaluate", total=sum(len(names) for chunks in left.values() for names in chunks.values()))
        for role, unfinished in left.items():
            refined = np.load(paths.refined / f"maps_{role}.npy", mmap_mode="r")
            batches = chunks(ctx, dataset, indices, target, role, list(unfinished))
            for (start, names), (batch, classes) in zip(unfinished.items(), batches, strict=True):
                config = params.evaluate.model_copy(update={"measures": params.evaluate.measures_from(start)})
                evaluator = ChunkEvaluator(scorer, batch, role, classes, config, params.perturbation, params.seed)
                for name in names:
                    bar.update(task, description=name[:12])
                    if not store.has(role, start, name):
                        facts = {}
                        if name in methods:
                            with measured(target) as cost, autocast(torch.device(ctx.device), precision_of(ctx, name)):
                                attempt = attempt_maps(methods[name].attribute, batch.x, classes)
                            facts = vars(cost) | {"maps": len(classes)}
                        steps = step_of(name)
                        if steps is not None:  # scored is what `refine` kept
                            own = refined[start : start + len(classes), steps]
                            attempt = attempt_maps(stored(own), batch.x, classes)
                        keep = max(params.evaluate.gallery - start, 0)
                        store.save(start, evaluator.score(name, attempt, keep, facts))
                    bar.advance(task)


def check(ctx: Context, target: Target, store: PartStore, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of each of these methods; one that was checked before, by another process or the last run, is read back.

    A method that fails has one row with the error.
    """
    params, config = ctx.params, ctx.params.evaluate.checks
    dataset, indices = evaluated(ctx, "test")
    pool = max(config.images, POOL * config.mosaics * max(config.sides, default=1) ** 2)
    indices = [indices[place] for place in evaluation_indices(pool, len(indices))]
    rows: list[dict[str, Any]] = []
    images = dataset.batch(indices)[0].to(ctx.device).float() / 255
    for name in ctx.progress(methods, len(methods), "checks"):
        found = store.load_check(name)
        if found is None:
            try:
                found = list(
                    check_method(
                        maker(ctx, name), target, images, indices, config, params.resources.batch_size, params.seed
                    )
                )
                store.save_check(name, found)
            except Exception as error:  # a method may raise anything; an interrupt is no Exception
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                found = [{"check": "failed", "image": -1, "detail": reason, "value": 0.0}]
        rows += [{"method": name} | row for row in found]
    return rows


def precision_of(ctx: Context, name: str) -> Precision:
    """Slow methods have their passes in the type of scoring, all others in float32."""
    config = ctx.params.evaluate
    return config.precision if name in config.slow.methods else "fp32"


def stored(refined: np.ndarray) -> Callable[[Tensor, Tensor], Tensor]:
    """AHA's refined maps of a chunk as a method."""
    return lambda x, _classes: torch.from_numpy(refined.copy()).to(x.device)


def precision_error(ctx: Context, target: Target, store: PartStore) -> dict[str, float]:
    """What the precision of scoring changes against float32, on the first chunk.

    max_error, mean_error: over its images and the same half removed, the largest |difference| of a probability;
    srg_max_error, srg_mean_error: over image x reference, |difference| of AHA's one-pass SRG; srg_shift: with its sign,
    the mean. No SRG where no image of the chunk has a map.
    """
    params = ctx.params
    role, exact, quick = params.evaluate.classes[0], ctx.scorer(target, "fp32"), ctx.scorer(target)
    dataset, indices = evaluated(ctx, "test")
    batch, classes = next(chunks(ctx, dataset, indices, target, role, [0]))
    half = batch.x * (torch.arange(batch.x.shape[-1], device=batch.x.device) % 2)
    with torch.no_grad():
        probabilities = torch.cat([(exact(x) - quick(x)).abs().amax(dim=1) for x in (batch.x, half)])
    found = {"max_error": probabilities.max(), "mean_error": probabilities.mean()}
    known = [row["srg"] for row in store.load(role, 0, f"{OURS}0").rows]
    if known:
        config = params.evaluate.model_copy(update={"measures": ()})
        bare = replace(batch, masks=None)
        evaluator = ChunkEvaluator(exact, bare, role, classes, config, params.perturbation, params.seed)
        kept = np.load(ctx.paths.refined / f"maps_{role}.npy", mmap_mode="r")[: len(classes), 0]
        again = [row["srg"] for row in evaluator.score(f"{OURS}0", attempt_maps(stored(kept), batch.x, classes)).rows]
        srg = torch.tensor(known, dtype=torch.float64) - torch.tensor(again, dtype=torch.float64)
        found |= {"srg_max_error": srg.abs().max(), "srg_mean_error": srg.abs().mean(), "srg_shift": srg.mean()}
    return {name: round(float(value), 6) for name, value in found.items()}


def refined_steps(ctx: Context, indices: list[int]) -> int:
    """T of the refined maps. Raises DataError when they belong to other images or classes."""
    file = ctx.paths.refined / "images.json"
    facts = json.loads(file.read_text()) if file.is_file() else {}
    if facts.get("indices") != indices or facts.get("roles") != list(ctx.params.evaluate.classes):
        raise DataError("the refined maps are missing or belong to other images; run `aha refine`")
    return int(facts["steps"])
