"""The sub-commands of `aha study`. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

study = typer.Typer(no_args_is_help=True, help="Answer a question by experiments.")

Out = Annotated[Path, typer.Option("--out", help="Folder for tables and figures.")]
ParamsFile = Annotated[Path | None, typer.Option("--params", help="Parameter file instead of params.yaml.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
OUT = Path("outputs/study")
Methods = Annotated[list[str], typer.Option("--method", help="Baseline to show beside AHA; may be repeated.")]
FineTuneSteps = Annotated[int, typer.Option("--fine-tune-steps", min=1, help="Steps of the fine-tuning.")]
LearningRate = Annotated[
    float | None, typer.Option("--fine-tune-lr", min=0, help="Its learning rate; default: see docs/find-a-shortcut.md.")
]


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
    ] = 0.0,
    method: Methods = ["chefer", "grad_cam"],  # noqa: B006 (Typer copies it)
    show_images: Annotated[
        bool, typer.Option("--show-images", help="Draw the strip of images also where they are not synthetic.")
    ] = False,
    params: ParamsFile = None,
    device: Device = None,
) -> None:
    """Does refinement find a marker that a fine-tuned target has learnt, with the clean target's explainer?"""
    from stages.context import Context
    from stages.studies.shortcut import run

    run(
        Context.create(Path.cwd(), params, device=device), out, class_, steps, images, fine_tune_steps, fine_tune_lr,
        marker_side, marker_place, relabelled, tuple(method), show_images,
    )  # fmt: skip
