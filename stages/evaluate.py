"""Stage `evaluate`: the metric contract for AHA at every refinement step and for the baselines."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from aha_core.baselines import BASELINES, BaselineSettings, make_baseline
from aha_core.errors import DataError
from aha_core.evaluation import ChunkEvaluator, Scores
from aha_core.files import atomic_json, atomic_path, atomic_text
from aha_core.perturbation import reference_images
from aha_core.protocols import Attributor
from aha_core.summary import refinement_curve, summarise, summarise_localisation
from aha_core.targets import Target
from stages.context import Context
from stages.images import chunks, evaluated
from stages.outputs import rebuild
from stages.tracking import Tracker


def run(ctx: Context) -> None:
    ctx.use_all_cores()
    params, paths = ctx.params, ctx.paths
    target = Target.load(paths.target).to(ctx.device)
    tracker = Tracker.for_stage(ctx.tracking_uri, paths)
    dataset, indices = evaluated(ctx, "test")
    methods = baselines(ctx, target)
    scores = Scores()
    kept: dict[str, list[np.ndarray]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    steps = range(refined_steps(ctx, indices) + 1)
    with ctx.bar() as bar:
        total = len(indices) * len(params.evaluate.classes) * (len(methods) + len(steps))
        task = bar.add_task("evaluate", total=total)
        for role in params.evaluate.classes:
            refined = np.load(paths.refined / f"maps_{role}.npy", mmap_mode="r")
            done = 0
            for batch, classes in chunks(ctx, dataset, indices, target, role):
                evaluator = ChunkEvaluator(
                    scores, target, batch, role, classes, params.evaluate.references, params.perturbation,
                    params.evaluate.points, params.resources.batch_size, params.seed,
                )  # fmt: skip
                place = slice(done, done + len(classes))
                done += len(classes)
                ours = ((f"aha_t{t}", torch.from_numpy(refined[place, t].copy()).to(ctx.device)) for t in steps)
                for name, maps in ours:
                    evaluator.score(name, maps)
                    keep(kept, params.evaluate.gallery, role, name, maps)
                    bar.advance(task, len(classes))
                for name, method in methods.items():
                    bar.update(task, description=name[:12])
                    started = time.perf_counter()
                    maps = method.attribute(batch.x, classes)
                    seconds[name] += time.perf_counter() - started
                    evaluator.score(name, maps)
                    keep(kept, params.evaluate.gallery, role, name, maps)
                    bar.advance(task, len(classes))
    write(ctx, scores, kept, tracker)
    maps_made = len(indices) * len(params.evaluate.classes)
    tracker.log_metrics({f"seconds_per_map/{name}": value / maps_made for name, value in seconds.items()})


def baselines(ctx: Context, target: Target) -> dict[str, Attributor]:
    """The configured methods that apply to this target; others are named, never scored as zero."""
    params = ctx.params
    settings = BaselineSettings(
        seed=params.seed,
        ig_steps=params.evaluate.ig_steps,
        rise_masks=params.evaluate.rise_masks,
        patch_grid=params.evaluate.patch_grid,
        mask_steps=params.evaluate.mask_steps,
        batch_size=params.resources.batch_size,
        reference=lambda x: reference_images(x, "black", params.perturbation),
    )
    methods = {}
    for name in params.evaluate.methods:
        reason = BASELINES[name].applies_to(target) if name in BASELINES else None
        if reason:
            ctx.say(f"{name} is left out: it {reason}")
        else:
            methods[name] = make_baseline(name, target, settings)
    return methods


def refined_steps(ctx: Context, indices: list[int]) -> int:
    """T of the refined maps. Raises DataError when they belong to other images or classes."""
    file = ctx.paths.refined / "images.json"
    facts = json.loads(file.read_text()) if file.is_file() else {}
    if facts.get("indices") != indices or facts.get("roles") != list(ctx.params.evaluate.classes):
        raise DataError("the refined maps are missing or belong to other images; run `aha refine`")
    return int(facts["steps"])


def keep(kept: dict[str, list[np.ndarray]], count: int, role: str, method: str, maps: torch.Tensor) -> None:
    """Collect the first `count` maps of each method for the report's gallery."""
    key = f"{role}/{method}"
    missing = count - sum(len(part) for part in kept[key])
    if missing > 0:
        kept[key].append(maps[:missing, 0].cpu().numpy().astype(np.float16))


def write(ctx: Context, scores: Scores, kept: dict[str, list[np.ndarray]], tracker: Tracker) -> None:
    paths, config, seed = ctx.paths, ctx.params.evaluate, ctx.params.seed
    rows, localisation = scores.table(), scores.localisation_table()
    summary = {"scores": summarise(rows, config.bootstrap, seed)}
    if len(localisation):
        summary["localisation"] = summarise_localisation(localisation, config.bootstrap, seed)
    with rebuild(paths.evaluation) as out:
        save_table(rows, out / "scores.parquet")
        if len(localisation):
            save_table(localisation, out / "localisation.parquet")
        arrays = {"/".join(key): np.concatenate(parts, axis=1) for key, parts in scores.curves.items()}
        assert scores.fractions is not None
        save_arrays(arrays | {"fractions": scores.fractions}, out / "curves.npz")
        save_arrays({key: np.concatenate(parts) for key, parts in kept.items()}, out / "gallery.npz")
    atomic_json(paths.metrics / "evaluation.json", summary)
    atomic_text(paths.plots / "curves.csv", scores.mean_curves().to_csv(index=False, lineterminator="\n"))
    steps = refinement_curve(rows, config.bootstrap, seed)
    atomic_text(paths.plots / "refinement.csv", steps.to_csv(index=False, lineterminator="\n"))
    role = config.classes[0]
    final = {
        f"{score}/{method}": values[score]["mean"]
        for method, values in summary["scores"][role].items()
        for score in ("srg", "deletion", "insertion")
    }
    tracker.log_metrics(final)
    tracker.log_files([paths.metrics / "evaluation.json", paths.evaluation / "scores.parquet"], "evaluation")
    best = max(values["srg"]["mean"] for name, values in summary["scores"][role].items() if not name.startswith("aha_"))
    last = steps.iloc[-1]
    ctx.say(
        f"SRG on {rows['index'].nunique()} images: AHA {steps.iloc[0].srg:.3f} in one pass, "
        f"{last.srg:.3f} after {int(last.step)} steps, best baseline {best:.3f}"
    )


def save_table(table: pd.DataFrame, file: Path) -> None:
    with atomic_path(file) as temporary:
        table.to_parquet(temporary, index=False)


def save_arrays(arrays: dict[str, np.ndarray], file: Path) -> None:
    with atomic_path(file) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
