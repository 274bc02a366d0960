"""`aha bench explain`: how fast `aha explain` is, against decoding the same files and passing them through the target.

    efficiency = seconds of decoding + plain forward passes / seconds of `aha explain` without scores
    map cost   = seconds of one-pass maps of decoded images / seconds of plain forward passes of the same; also hybrid

on the same files, with the same threads and batches, in turns so that a busy machine slows both alike. Loading the
model is outside both. Memory: growth of the process's peak during a quarter of the files and during all of them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from aha_core.attribution import Explainer
from aha_core.benchmarks.measure import peak_mb
from aha_core.config import Params
from aha_core.data.dataset import PreparedImages
from aha_core.errors import DataError
from aha_core.files import atomic_json
from aha_core.selection import evaluation_indices
from stages.bench import facts
from stages.class_choice import ClassChoice
from stages.context import Context
from stages.explain import batch_size, batches, explain_files
from stages.explained import Request
from stages.image_files import Found, find_images
from stages.own import load_explainer

DECODED = 64  # images that are held in memory for the cost of a map alone


@dataclass(frozen=True)
class ExplainSpeed:
    """Medians over rounds.

    plain, explain: images per second; efficiency: ratio of the seconds; cpu_efficiency: of the process's CPU seconds,
    which other processes on the machine hardly change; map_cost, hybrid_cost: ratios of the seconds;
    peaks: MB above the start.
    """

    images: int
    plain: float
    explain: float
    efficiency: float
    cpu_efficiency: float
    map_cost: float
    hybrid_cost: float
    quarter_peak_mb: float
    peak_mb: float


def run(ctx: Context, out: Path, images: list[str], count: int, rounds: int) -> None:
    """Measure and write explain.json.

    Args:
        images: files, folders, patterns; the test images, as JPEG files, where empty.
        count: at most so many of them.
    """
    ctx = replace(ctx, params=with_threads(ctx))
    ctx.use_all_cores()
    explainer = load_explainer(ctx, None, None, None)
    with tempfile.TemporaryDirectory() as folder, ctx.console.status("explain"):
        files = find_images(images, [], out).files if images else test_files(ctx, Path(folder) / "images", count)
        if not files:
            raise DataError(f"no images in {', '.join(images)}")
        speed = measure(ctx, explainer, files[:count], Path(folder) / "maps", rounds)
    atomic_json(out / "explain.json", facts(ctx) | {"rounds": rounds} | vars(speed))
    columns = (
        "images",
        "plain/s",
        "explain/s",
        "efficiency",
        "of CPU time",
        "map",
        "hybrid",
        "peak MB",
    )
    shown = Table(*columns, box=None)
    shown.add_row(
        str(speed.images), f"{speed.plain:.1f}", f"{speed.explain:.1f}", f"{speed.efficiency:.0%}",
        f"{speed.cpu_efficiency:.0%}", f"{speed.map_cost:.2f}", f"{speed.hybrid_cost:.2f}",
        f"{speed.peak_mb:.0f} ({speed.quarter_peak_mb:.0f} for 1/4)",
    )  # fmt: skip
    ctx.console.print(shown)
    ctx.say(f"wrote explain.json to {out}")


def with_threads(ctx: Context) -> Params:
    """The parameters with the benchmark's threads, which decoding and the target share."""
    resources = ctx.params.resources.model_copy(update={"threads": ctx.threads})
    return ctx.params.model_copy(update={"resources": resources})


def measure(ctx: Context, explainer: Explainer, files: list[Path], maps: Path, rounds: int) -> ExplainSpeed:
    """Both in turns, after a round that is not counted, then the memory."""
    device = torch.device(ctx.device)
    with Path(os.devnull).open("w") as nowhere:
        silent = replace(ctx, console=Console(file=nowhere))

        def explain(some: list[Path]) -> None:
            request = Request([], maps, scores=False)
            explain_files(silent, explainer, ClassChoice(), request, Found(some))

        costs = [
            (cost(lambda: plain(ctx, explainer, files), device), cost(lambda: explain(files), device))
            for _ in range(rounds + 1)
        ][1:]
        x = decoded(ctx, explainer, files)
        maps_and_plain = [
            tuple(
                cost(work, device)
                for work in (
                    lambda: one_pass_maps(explainer, x),
                    lambda: one_pass_maps(explainer, x, hybrid=True),
                    lambda: passes(explainer, x),
                )
            )
            for _ in range(rounds + 1)
        ][1:]
        quarter = peak_mb(lambda: explain(files[: -(-len(files) // 4)]), device)
        whole = peak_mb(lambda: explain(files), device)
    median = statistics.median
    return ExplainSpeed(
        images=len(files),
        plain=round(len(files) / median(one.wall for one, _ in costs), 2),
        explain=round(len(files) / median(other.wall for _, other in costs), 2),
        efficiency=round(median(one.wall / other.wall for one, other in costs), 3),
        cpu_efficiency=round(median(one.cpu / other.cpu for one, other in costs), 3),
        map_cost=round(median(once.wall / plainly.wall for once, _, plainly in maps_and_plain), 3),
        hybrid_cost=round(median(hybrid.wall / plainly.wall for _, hybrid, plainly in maps_and_plain), 3),
        quarter_peak_mb=round(quarter, 1),
        peak_mb=round(whole, 1),
    )


@dataclass(frozen=True)
class Cost:
    """Seconds: by the clock, and of all threads of this process."""

    wall: float
    cpu: float


def cost(work: Callable[[], object], device: torch.device) -> Cost:
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Cost(time.perf_counter() - clock, time.process_time() - cpu)


def decoded(ctx: Context, explainer: Explainer, files: list[Path]) -> list[Float[Tensor, "B 3 S S"]]:
    """Up to `DECODED` of the images on the device, in batches as `aha explain` has them."""
    found = batches(files[:DECODED], explainer.target.image_size, batch_size(ctx), ctx.cores)
    return [torch.stack([photo.x for _, photo in batch]).to(ctx.device).float() / 255 for batch, _ in found if batch]


def one_pass_maps(explainer: Explainer, x: list[Float[Tensor, "B 3 S S"]], hybrid: bool = False) -> None:
    for batch in x:
        features = explainer.features(batch)
        explainer.maps(batch, features, features.logits.argmax(dim=1)[None], hybrid=hybrid).cpu()


@torch.no_grad()
def passes(explainer: Explainer, x: list[Float[Tensor, "B 3 S S"]]) -> None:
    for batch in x:
        explainer.target.probabilities(batch).argmax(dim=1).cpu()


@torch.no_grad()
def plain(ctx: Context, explainer: Explainer, files: list[Path]) -> None:
    """Decode and classify."""
    for batch, _ in batches(files, explainer.target.image_size, batch_size(ctx), ctx.cores):
        if not batch:  # all of them unreadable
            continue
        pixels = torch.stack([photo.x for _, photo in batch])
        explainer.target.probabilities(pixels.to(ctx.device).float() / 255).argmax(dim=1).tolist()


def test_files(ctx: Context, folder: Path, count: int) -> list[Path]:
    """The test images as JPEG files."""
    dataset = PreparedImages(ctx.paths.data, "test")
    folder.mkdir(parents=True)
    files = []
    for index in evaluation_indices(count, len(dataset)):
        files.append(folder / f"{index:06d}.jpg")
        Image.fromarray(dataset.image(index).permute(1, 2, 0).numpy()).save(files[-1], quality=95)
    return files
