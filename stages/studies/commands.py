"""The sub-commands of `aha study`. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stages.options import Device, ParamsFile

if TYPE_CHECKING:
    from stages.context import Context

study = typer.Typer(no_args_is_help=True, help="Answer a question by experiments.")

Out = Annotated[Path, typer.Option("--out", help="Folder for tables and figures.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: resources.threads.")]
OUT = Path("outputs/study")
Methods = Annotated[list[str], typer.Option("--method", help="Baseline to show beside AHA; may be repeated.")]
FineTuneSteps = Annotated[int, typer.Option("--fine-tune-steps", min=1, help="Steps of the fine-tuning.")]
LearningRate = Annotated[
    float | None, typer.Option("--fine-tune-lr", min=0, help="Its learning rate; default: see docs/find-a-shortcut.md.")
]
Fractions = Annotated[
    list[int], typer.Option("--fractions", min=1, help="Masked images S per direction and reference; may be repeated.")
]
RiseMasks = Annotated[list[int], typer.Option("--rise-masks", min=1, help="Masks of RISE; may be repeated.")]


def context(params: Path | None, device: str | None, threads: int | None) -> Context:
    """The active parameters, with the threads that a flag names."""
    from dataclasses import replace

    from stages.context import Context

    ctx = Context.create(Path.cwd(), params, device=device)
    if threads is None:
        return ctx
    resources = ctx.params.resources.model_copy(update={"threads": threads})
    return replace(ctx, threads=threads, params=ctx.params.model_copy(update={"resources": resources}))


@study.command("relaxation")
def relaxation(
    out: Out = OUT,
    images: Annotated[int, typer.Option(min=2, help="Held-out images of each experiment.")] = 100,
    device: Device = None,
) -> None:
    """Relaxation, temperature, fractions and grids, as DVC experiments (continues where it was stopped)."""
    from stages.context import Context
    from stages.studies.relaxation import run

    run(Context.create(Path.cwd(), device=device), out, images=images)


@study.command("designs")
def designs(
    out: Out = OUT,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps of each experiment.")] = 150,
    images: Annotated[int, typer.Option(min=2, help="Held-out images of each experiment.")] = 100,
    device: Device = None,
) -> None:
    """Parts of explainer and training, one change at a time, as DVC experiments (continues where it was stopped)."""
    from stages.context import Context
    from stages.studies.designs import run

    run(Context.create(Path.cwd(), device=device), out, steps, images)


@study.command("shortcut")
def shortcut(
    out: Out = OUT,
    class_: Annotated[
        str | None,
        typer.Option("--class", help="Class that gets the marker; default: the data's first."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=0, help="Refinement steps T.")] = 10,
    images: Annotated[int, typer.Option("--images", min=2, help="Held-out images, half of the class.")] = 100,
    fine_tune_steps: FineTuneSteps = 300,
    fine_tune_lr: LearningRate = None,
    marker_side: Annotated[
        int | None, typer.Option(min=4, help="Pixels, a multiple of 4; default: an eighth of the image.")
    ] = None,
    marker_place: Annotated[Literal["random", "corner"], typer.Option(help="Where the marker is.")] = "corner",
    relabelled: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the other training images that get marker and class.")
    ] = 0.1,
    method: Methods = ["chefer", "grad_cam"],  # noqa: B006 (Typer copies it)
    show_images: Annotated[
        bool, typer.Option("--show-images", help="Draw the strip of images also where they are not synthetic.")
    ] = False,
    params: ParamsFile = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Does refinement find a marker that a fine-tuned target has learnt, with the clean target's explainer?"""
    from stages.studies.shortcut import run

    run(
        context(params, device, threads), out, class_, steps, images, fine_tune_steps, fine_tune_lr,
        marker_side, marker_place, relabelled, tuple(method), show_images,
    )  # fmt: skip


@study.command("transfer")
def transfer(
    out: Out = OUT,
    steps: Annotated[int, typer.Option("--steps", min=0, help="Refinement steps T.")] = 5,
    images: Annotated[int, typer.Option("--images", min=2, help="Held-out images.")] = 100,
    fine_tune_steps: FineTuneSteps = 300,
    fine_tune_lr: LearningRate = None,
    explainer: Annotated[
        Path | None, typer.Option("--explainer", help="Folder of the explainer; default: outputs/explainer.")
    ] = None,
    target: Annotated[
        list[str], typer.Option("--target", metavar="NAME=DIR", help="Another saved target; may be repeated.")
    ] = [],  # noqa: B006
    fresh_explainer: Annotated[
        list[str],
        typer.Option("--fresh-explainer", metavar="NAME=DIR", help="An explainer trained on the target NAME."),
    ] = [],  # noqa: B006
    method: Methods = ["chefer", "grad_cam"],  # noqa: B006
    params: ParamsFile = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """How good is an explainer with a target that it was not trained on: fine-tuned, poisoned, another architecture?"""
    from stages.studies.common import named_folders
    from stages.studies.transfer import run

    others, fresh = named_folders(target, "--target"), named_folders(fresh_explainer, "--fresh-explainer")
    ctx = context(params, device, threads)
    run(ctx, out, steps, images, fine_tune_steps, fine_tune_lr, explainer, others, fresh, tuple(method))


@study.command("sanity")
def sanity(
    out: Out = OUT,
    images: Annotated[int, typer.Option("--images", min=2, help="Held-out images.")] = 50,
    depths: Annotated[
        int | None,
        typer.Option("--depths", min=1, help="Measured steps of the cascade; default: all."),
    ] = None,
    paper_explainer: Annotated[
        Path | None, typer.Option("--paper-explainer", help="Folder of an explainer of the paper's preset.")
    ] = None,
    method: Methods = ["chefer", "grad_cam"],  # noqa: B006
    params: ParamsFile = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Do maps change when the target's layers are made random, from the output downwards?"""
    from stages.studies.sanity import run

    run(context(params, device, threads), out, images, depths, paper_explainer, tuple(method))


@study.command("tradeoff")
def tradeoff(
    out: Out = OUT,
    steps: Annotated[int, typer.Option("--steps", min=0, help="Most refinement steps T.")] = 10,
    fractions: Fractions = [1, 3],  # noqa: B006
    rise_masks: RiseMasks = [200, 1000, 4000],  # noqa: B006
    images: Annotated[int, typer.Option("--images", min=2, help="Held-out images, the evaluation's first.")] = 40,
    explainer: Annotated[
        Path | None, typer.Option("--explainer", help="Folder of the explainer; default: outputs/explainer.")
    ] = None,
    method: Methods = ["greedy", "chefer"],  # noqa: B006
    params: ParamsFile = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """How much better does a map get for more passes and time: refinement steps, RISE's masks, baselines?"""
    from stages.studies.tradeoff import run

    ctx = context(params, device, threads)
    run(ctx, out, steps, fractions, rise_masks, images, explainer, tuple(method))


@study.command("refinement")
def refinement(
    out: Out = OUT,
    change: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="NAME=VALUE,…", help="A setting of `refine` to try; may be repeated; default: neighbours."
        ),
    ] = [],  # noqa: B006
    images: Annotated[int, typer.Option("--images", min=2, help="Training images, evenly spread.")] = 32,
    explainer: Annotated[
        Path | None, typer.Option("--explainer", help="Folder of the explainer; default: outputs/explainer.")
    ] = None,
    params: ParamsFile = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Which settings of the refinement suit this classifier: cells, learning rate, temperature, start?"""
    from stages.studies.refinement import run

    run(context(params, device, threads), out, change, images, explainer)


@study.command("units")
def units(
    out: Out = OUT,
    images: Annotated[int, typer.Option("--images", min=2, help="Held-out images, the evaluation's first.")] = 64,
    steps: Annotated[int, typer.Option("--steps", min=0, help="Refinement steps T.")] = 3,
    explainer: Annotated[
        Path | None, typer.Option("--explainer", help="Folder of the explainer; default: outputs/explainer.")
    ] = None,
    patch: Annotated[int | None, typer.Option("--patch", min=2, help="Side in pixels; default: the target's.")] = None,
    method: Methods = ["chefer", "legrad", "smoothgrad", "occlusion", "kernel_shap", "lime"],  # noqa: B006
    params: ParamsFile = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """How much of a score is the grain of a map: pixels, the classifier's patches, or scattered pixels?"""
    from stages.studies.units import run

    run(context(params, device, threads), out, images, steps, explainer, patch, tuple(method))


@study.command("localisation")
def localisation(
    folder: Annotated[Path, typer.Argument(help="Folder of images.", exists=True, file_okay=False)],
    masks: Annotated[
        Path | None, typer.Option("--masks", help="Folder of mask files at the images' paths.", exists=True)
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option("--boxes", help="CSV file of boxes: image,x0,y0,x1,y1.", exists=True, dir_okay=False)
    ] = None,
    void: Annotated[int | None, typer.Option("--void", help="Mask value of pixels that do not count.")] = None,
    out: Out = OUT,
    images: Annotated[int | None, typer.Option("--images", min=2, help="At most so many, evenly spread.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=0, help="Refinement steps T.")] = 0,
    explainer: Annotated[str | None, typer.Option("--explainer", help="As in `aha explain`.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="As in `aha explain`.")] = None,
    target_weights: Annotated[Path | None, typer.Option("--target-weights", help="As in `aha explain`.")] = None,
    method: Methods = ["random", "centre", "chefer", "grad_cam"],  # noqa: B006
    params: ParamsFile = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Do maps lie on the objects of a folder of images with masks or boxes?"""
    from aha_core.data.objects import BoxTable, MaskFolder, Objects
    from aha_core.errors import ConfigError
    from stages.own import load_explainer, parameters
    from stages.studies.localisation import run

    if masks is not None and boxes is None:
        objects: Objects = MaskFolder(masks, void)
    elif boxes is not None and masks is None:
        objects = BoxTable(boxes)
    else:
        raise ConfigError("give the objects by one of --masks FOLDER and --boxes FILE")
    ctx = context(parameters(Path.cwd(), params, explainer), device, threads)
    loaded = load_explainer(ctx, explainer, target, target_weights)
    run(ctx, out, folder, objects, loaded, images, steps, tuple(method))


@study.command("mixture")
def mixture(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    source: Annotated[
        Path, typer.Option("--source", envvar="AHA_REAL_DATA", help="Folder of the image sets, see docs/pretrained.md.")
    ],
    params: ParamsFile = None,
    threads: Threads = None,
) -> None:
    """Link image sets into one folder of ImageNet classes, as the pretrained explainer was trained on."""
    from stages.studies.mixture import run

    run(context(params, None, threads), source, out)
