"""`aha explain`: what the classifier looks at in one's own images.

Pictures, map and JSON of each image (`stages.explained`), contact sheets of several, and summary.json with what was
skipped. Images are decoded and pictures are written in threads beside the
classifier's passes, a batch at a time, so memory does not grow with the number of images.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from rich.console import Console
from torch import Tensor

from aha_core.attribution import Explainer, contrast_maps
from aha_core.budget import passes_of
from aha_core.errors import ConfigError
from aha_core.figures.contact_sheet import ContactSheet, Page
from aha_core.figures.terminal import in_colour, in_shades
from aha_core.files import atomic_json, atomic_path
from aha_core.metrics import curve_fractions, deletion_insertion, removal_order
from aha_core.references import evaluation_reference
from aha_core.scoring import Scorer
from stages.class_choice import ClassChoice
from stages.context import Context
from stages.explained import Explained, Photo, Request, endings, read_photo, write
from stages.image_files import Found, find_images, output_names, read_ahead
from stages.own import load_explainer

SCORED = 16  # images whose maps are scored where nothing is said
WRITERS = 1  # threads: more take the interpreter from the classifier's
SWITCH = 5e-5  # seconds that the classifier's thread waits for Python while a writer has it; by default 5e-3
BATCH = 16  # images, at most: more are not faster on CPUs, and each waits with its picture in memory
DIGITS = 6


def run(ctx: Context, request: Request) -> int:
    """Explain everything that was named; returns the number of unusable files."""
    ctx.use_all_cores()
    explainer = load_explainer(ctx, request.explainer, request.target, request.weights)
    request = within_budget(ctx, explainer, request)
    known = explainer.target.class_names
    ctx.say(f"{explainer.target.name}, {len(known)} classes: {', '.join(known[:3])}{', …' if len(known) > 3 else ''}")
    choice = ClassChoice.parse(request.class_, request.against, explainer.target)
    return explain_files(ctx, explainer, choice, request, find_images(request.images, sys.stdin, request.out))


def within_budget(ctx: Context, explainer: Explainer, request: Request) -> Request:
    """The request with the hybrid map and the steps that its number of passes allows.

    Raises ConfigError where it asks for both.
    """
    if request.passes is None:
        return request
    if request.steps or request.hybrid:
        raise ConfigError("--passes chooses --hybrid and --steps; give either it or them")
    chosen = replace(request, **explainer.within(request.passes))
    kind = f"T = {chosen.steps}, hybrid" if chosen.hybrid else f"T = {chosen.steps}"
    taken = passes_of(explainer.refinement, chosen.steps, chosen.hybrid)
    ctx.say(f"{kind}: {taken:,} of {request.passes:,} passes of the classifier per map")
    return chosen


def explain_files(ctx: Context, explainer: Explainer, choice: ClassChoice, request: Request, found: Found) -> int:
    """Explain the files and write what is in the request; returns the number of unusable files."""
    request = replace(request, scores=with_scores(ctx, request.scores, len(found.files)))
    names = output_names(found.files, request.out, endings(choice.top))
    named = dict(zip(found.files, names, strict=True))
    with switching(SWITCH), ThreadPoolExecutor(WRITERS) as pool:
        results = Results(ctx, pool, request, explainer.target.name, named, list(found.bad))
        with ctx.bar() as bar:
            task = bar.add_task("explain", total=len(found.files))
            for batch, failed in batches(found.files, explainer.target.image_size, batch_size(ctx), ctx.cores):
                explained = explain_batch(ctx, explainer, choice, request, [photo for _, photo in batch])
                results.collect()  # of the batch before: its pictures were written meanwhile
                results.bad += failed
                results.submit(batch, explained)
                bar.advance(task, len(batch) + len(failed))
            results.collect()
        return results.close(request.class_ or "predicted")


@contextmanager
def switching(seconds: float) -> Iterator[None]:
    """Threads wait at most so long for another one's Python code; as before afterwards."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def batch_size(ctx: Context) -> int:
    return min(BATCH, ctx.params.resources.batch_size)


def with_scores(ctx: Context, wanted: bool | None, images: int) -> bool:
    """Scores of a map cost many more passes than the map: for many images only where they were asked for."""
    if wanted is None and images > SCORED:
        ctx.say(f"no deletion and insertion scores for more than {SCORED} images; --scores adds them")
    return images <= SCORED if wanted is None else wanted


class Results:
    """Writes in threads what was explained, one batch at a time, and keeps account.

    Args:
        names: of the outputs, by file.
        bad: unusable files so far, with reasons.
    """

    def __init__(
        self, ctx: Context, pool: Executor, request: Request, target: str, names: dict[Path, str],
        bad: list[tuple[str, str]],
    ) -> None:  # fmt: skip
        self.ctx, self.request, self.target, self.names, self.bad = ctx, request, target, names, bad
        self._pool = pool
        self.done: list[dict[str, str]] = []
        self._jobs: list[tuple[Path, list[Explained], Future[UInt8[np.ndarray, "H W 3"]]]] = []
        self._sheet, self._pages, self._terminal = ContactSheet(), list[Future[str]](), Console()

    def submit(self, batch: list[tuple[Path, Photo]], explained: list[list[Explained]]) -> None:
        for (file, photo), own in zip(batch, explained, strict=True):
            if own:
                job = self._pool.submit(write, self.request, self.names[file], file, photo, own, self.target)
                self._jobs.append((file, own, job))
            else:
                self.bad.append((str(file), "the map is not finite"))

    def collect(self) -> None:
        """Wait for what was submitted, and show it."""
        jobs, self._jobs = self._jobs, []
        for file, own, job in jobs:
            overlay, name = job.result(), self.names[file]
            self.done.append({"file": str(file), "result": f"{name}.json"})
            self._save(self._sheet.add(overlay, [file.name, _line(own[:1])]))
            if self.request.show:
                small = in_colour(overlay) if self._terminal.color_system else in_shades(own[0].map)
                self._terminal.print(small, end="")
            self.ctx.say(f"{file.name}: {_line(own)} -> {self.request.out / name}_overlay.jpg")

    def close(self, wanted: str) -> int:
        """The last contact sheet, summary.json and the list of unusable files; returns their number."""
        if len(self.done) > 1:
            self._save(self._sheet.rest())
        out = self.request.out
        facts: dict[str, Any] = {"target": self.target, "hybrid": self.request.hybrid, "steps": self.request.steps}
        facts["class"] = wanted
        skipped = [{"file": name, "reason": reason} for name, reason in self.bad]
        files = {"contact_sheets": [page.result() for page in self._pages], "images": self.done, "skipped": skipped}
        atomic_json(out / "summary.json", facts | files)
        for name, reason in self.bad:
            self.ctx.say_skipped(name, reason)
        self.ctx.say(f"{len(self.done)} explained, {len(self.bad)} skipped: {out}")
        return len(self.bad)

    def _save(self, pages: Iterable[tuple[int, Page]]) -> None:
        for number, page in pages:
            self._pages.append(self._pool.submit(save_page, page, self.request.out / f"contact_sheet_{number:02d}.jpg"))


def save_page(page: Page, file: Path) -> str:
    """Draw and write it; returns the file's name."""
    with atomic_path(file) as temporary:
        page.draw().save(temporary, quality=88)
    return file.name


def batches(
    files: list[Path], side: int, size: int, threads: int
) -> Iterator[tuple[list[tuple[Path, Photo]], list[tuple[str, str]]]]:
    """Decoded images in groups of `size`, with the unusable files that lay between them."""
    batch: list[tuple[Path, Photo]] = []
    failed: list[tuple[str, str]] = []
    for file, result in read_ahead(files, lambda file: read_photo(file, side), size, threads):
        if isinstance(result, Photo):
            batch.append((file, result))
        else:
            failed.append((str(file), str(result).removeprefix(f"{file}: ")))
        if len(batch) == size:
            yield batch, failed
            batch, failed = [], []
    if batch or failed:
        yield batch, failed


@torch.no_grad()
def explain_batch(
    ctx: Context, explainer: Explainer, choice: ClassChoice, request: Request, photos: list[Photo]
) -> list[list[Explained]]:
    """Maps, probabilities and scores of the chosen classes of each image; nothing where a map is not finite."""
    if not photos:
        return []
    target = explainer.target
    pixels = torch.stack([photo.x for photo in photos])
    x = pixels.to(ctx.device).float() / 255
    features = explainer.features(x)
    probabilities = features.logits.float().softmax(dim=1)
    classes = choice(probabilities)
    if choice.against is None:
        maps = explainer.maps(x, features, classes, request.steps, request.hybrid)
    else:
        rivals = torch.full_like(classes[:1], choice.against)
        every = explainer.maps(x, features, torch.cat([classes, rivals]), request.steps, request.hybrid, contrast=0.0)
        maps = torch.stack([contrast_maps(torch.stack([one, every[-1]])) for one in every[:-1]])
    finite = maps.isfinite().flatten(2).all(dim=2).all(dim=0).tolist()
    maps = maps.nan_to_num(0.0, 0.0, 0.0)
    scorer = ctx.scorer(target, "fp32") if request.scores else None
    seeds = [zlib.crc32(one.numpy()) for one in pixels] if scorer else []
    results: list[list[Explained]] = [[] for _ in photos]
    for wanted, own in zip(classes, maps, strict=True):
        scores = score(ctx, explainer, scorer, x, own, wanted, seeds) if scorer else [{} for _ in photos]
        for place, (index, values) in enumerate(zip(wanted.tolist(), scores, strict=True)):
            facts = _class_facts(index, probabilities[place], target.class_names)
            if choice.against is not None:
                facts["against"] = _class_facts(choice.against, probabilities[place], target.class_names)
            results[place].append(Explained(facts | values, own[place, 0].cpu().numpy()))
    return [own if good else [] for own, good in zip(results, finite, strict=True)]


def score(
    ctx: Context, explainer: Explainer, scorer: Scorer, x: Float[Tensor, "B 3 S S"], maps: Float[Tensor, "B 1 S S"],
    classes: Int[Tensor, "B"], seeds: list[int],
) -> list[dict[str, Any]]:  # fmt: skip
    """Deletion and insertion AUC and SRG of each map by the metric contract: mean of the references, and each.

    Seeds come from the images' pixels, so an image's scores depend on nothing else.
    """
    config = ctx.params.evaluate
    orders = removal_order(maps, seeds)
    counts, _ = curve_fractions(config.points, x.shape[2] * x.shape[3])
    per_reference = {}
    for name in config.references:
        reference = evaluation_reference(x, name, explainer.training.perturbation, seeds)
        curves = deletion_insertion(scorer, x, orders, classes, reference, counts, scorer.batch_size)
        per_reference[name] = {"deletion": curves.deletion_auc, "insertion": curves.insertion_auc, "srg": curves.srg}
    rows = []
    for place in range(len(x)):
        each = {
            name: {kind: round(float(values[place]), DIGITS) for kind, values in columns.items()}
            for name, columns in per_reference.items()
        }
        mean = {
            kind: round(sum(own[kind] for own in each.values()) / len(each), DIGITS)
            for kind in ("deletion", "insertion", "srg")
        }
        rows.append(mean | {"by_reference": each})
    return rows


def _class_facts(index: int, probabilities: Float[Tensor, "Y"], names: list[str]) -> dict[str, Any]:
    return {"class": names[index], "index": index, "probability": round(float(probabilities[index]), DIGITS)}


def _line(explained: list[Explained]) -> str:
    shown = [f"{own.facts['class']} ({own.facts['probability']:.2f})" for own in explained]
    against = explained[0].facts.get("against")
    return ", ".join(shown) + (f" rather than {against['class']} ({against['probability']:.2f})" if against else "")
