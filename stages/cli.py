"""The command line: each stage, the pipeline, profiles, the MLflow UI and `explain`.

Nothing heavy is imported before a command runs, so that `aha --help` answers at once. Exit codes: 0 done, 1 an error
that the user can fix, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from stages.bench_commands import bench
from stages.options import Device, ParamsFile
from stages.studies.commands import study

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Rank every pixel by how much a frozen image classifier needs it.",
)  # fmt: skip

STAGES = {
    "prepare": "Draw the synthetic objects, or index and verify folders of images.",
    "target": "Train, download or read the classifier to explain.",
    "train": "Train the explainer on the frozen target.",
    "fastshap": "Train the learned baseline, FastSHAP, where fastshap.train says so.",
    "refine": "Improve the maps of the evaluation images by gradient steps.",
    "evaluate": "Score AHA and the baselines: deletion, insertion, localisation.",
    "report": "Write the self-contained HTML report.",
}

INTERRUPTED = 130  # 128 + SIGINT

Workers = Annotated[int | None, typer.Option("--workers", min=0, help="Ray workers (train, evaluate); 0 = none.")]
TrackingUri = Annotated[str | None, typer.Option("--tracking-uri", help="MLflow store: sqlite:////… or http://…")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do not continue an interrupted training or evaluation.")]
ExplainerSource = Annotated[
    str | None,
    typer.Option(
        "--explainer", help="Folder, name (one of the library, or in $AHA_EXPLAINERS), or models:/NAME@ALIAS."
    ),
]
TargetSource = Annotated[str | None, typer.Option("--target", help="Folder of a target, or timm name.")]
TargetWeights = Annotated[Path | None, typer.Option("--target-weights", help="Safetensors file for that architecture.")]


class ExportFormat(StrEnum):
    ONNX = "onnx"
    TORCH_EXPORT = "torch-export"


def _stage(name: str, help_text: str) -> None:
    def command(
        params: ParamsFile = None,
        workers: Workers = None,
        device: Device = None,
        tracking_uri: TrackingUri = None,
        fresh: Fresh = False,
    ) -> None:
        from stages.context import Context

        ctx = Context.create(Path.cwd(), params, workers, device, tracking_uri, fresh)
        import_module(f"stages.{name}").run(ctx)

    app.command(name, help=help_text, rich_help_panel="Stages")(command)


for _name, _help in STAGES.items():
    _stage(_name, _help)


@app.command(rich_help_panel="Pipeline")
def run(
    stage: Annotated[str | None, typer.Argument(help="Only this stage and what it needs.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run even where nothing changed.")] = False,
) -> None:
    """Bring the pipeline up to date (= dvc repro)."""
    from stages.pipeline import repro

    raise typer.Exit(repro(stage, force))


@app.command(rich_help_panel="Pipeline")
def profile(
    name: Annotated[str | None, typer.Argument(help="Profile to activate; without it, list them.")] = None,
) -> None:
    """List the ready profiles, or copy one over params.yaml."""
    from stages.profiles import activate, table

    if name is None:
        typer.echo(table(Path.cwd()))
    else:
        typer.echo(activate(Path.cwd(), name))


@app.command(rich_help_panel="Pipeline")
def ui(port: Annotated[int, typer.Option(help="Port on localhost.")] = 5000, tracking_uri: TrackingUri = None) -> None:
    """Open the MLflow UI on localhost."""
    import subprocess

    from stages.context import default_tracking_uri
    from stages.paths import Paths
    from stages.tracking import ui_command

    uri = default_tracking_uri(Paths(Path.cwd()), tracking_uri)
    if uri.startswith("http"):
        typer.echo(f"the store is a server: open {uri}")
        return
    typer.echo(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)")
    raise typer.Exit(subprocess.call(ui_command(uri, port)))


@app.command(rich_help_panel="Pipeline")
def promote(
    run: Annotated[str | None, typer.Argument(help="MLflow run; default: the pipeline's (outputs/run.json).")] = None,
    alias: Annotated[str, typer.Option("--alias", help="Name that then stands for this model.")] = "champion",
    tracking_uri: TrackingUri = None,
) -> None:
    """Register a run's model: models:/aha-explainer@ALIAS for `aha explain --explainer` and `mlflow models serve`."""
    from stages.context import default_tracking_uri
    from stages.paths import Paths
    from stages.promote import run as promote_run

    paths = Paths(Path.cwd())
    typer.echo(promote_run(paths, default_tracking_uri(paths, tracking_uri), run, alias))


@app.command(rich_help_panel="Use")
def explain(
    images: Annotated[list[str], typer.Argument(help="Files, folders, patterns; - reads a list.", metavar="IMAGE…")],
    out: Annotated[Path, typer.Option("--out", help="Folder of pictures, maps (NPY) and facts (JSON).")] = Path("maps"),
    class_: Annotated[
        str | None, typer.Option("--class", help="Class name or index, or top3; default: the predicted.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Another class: what speaks for the one rather than this.")
    ] = None,
    hybrid: Annotated[
        bool,
        typer.Option("--hybrid", help="One gradient of the classifier corrects each map: about 3 times the time."),
    ] = False,
    steps: Annotated[int, typer.Option("--steps", min=0, help="Refinement steps.")] = 0,
    passes: Annotated[
        int | None,
        typer.Option("--passes", min=1, help="Instead: the steps that so many passes of the classifier per map allow."),
    ] = None,
    explainer: ExplainerSource = None,
    target: TargetSource = None,
    target_weights: TargetWeights = None,
    keep: Annotated[float, typer.Option("--keep", min=0.001, max=1, help="Share of the pixels in the cut-out.")] = 0.2,
    scores: Annotated[
        bool | None,
        typer.Option("--scores/--no-scores", help="Deletion and insertion of each map; default: for up to 16 images."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Also a small map in the terminal.")] = False,
    params: ParamsFile = None,
    device: Device = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Explain images with the trained explainer, before there is one with the library's."""
    from stages.context import Context
    from stages.explain import run as explain_images
    from stages.explained import Request
    from stages.own import parameters

    ctx = Context.create(
        Path.cwd(), parameters(Path.cwd(), params, explainer), device=device, tracking_uri=tracking_uri
    )
    request = Request(
        images, out, class_, against, hybrid, steps, passes, explainer, target, target_weights, keep, scores, show
    )  # fmt: skip
    raise typer.Exit(1 if explain_images(ctx, request) else 0)


@app.command(rich_help_panel="Use")
def export(
    format_: Annotated[ExportFormat, typer.Option("--format", help="Kind of graph.")] = ExportFormat.ONNX,
    out: Annotated[Path | None, typer.Option("--out", help="File; default explainer.onnx or explainer.pt2.")] = None,
    explainer: ExplainerSource = None,
    target: TargetSource = None,
    target_weights: TargetWeights = None,
    params: ParamsFile = None,
) -> None:
    """Write target and explainer as one graph: image and class in, map and probabilities out."""
    from stages.context import Context
    from stages.export import run as export_graph
    from stages.own import parameters

    ctx = Context.create(Path.cwd(), parameters(Path.cwd(), params, explainer), device="cpu")
    export_graph(ctx, format_.value, out, explainer, target, target_weights)


@app.command(rich_help_panel="Use")
def score(
    maps: Annotated[Path, typer.Option("--maps", help="Folder with manifest.csv and the maps (npy, npz, png).")],
    method_name: Annotated[
        str, typer.Option("--method-name", help="Name of the method in the tables: letters, digits, _ - and .")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the results, new or of an earlier run; default outputs/scored/NAME."),
    ] = None,
    params: ParamsFile = None,
    device: Device = None,
) -> None:
    """Score another tool's maps of the test images by the same contract."""
    from stages.context import Context
    from stages.score import run as score_maps

    ctx = Context.create(Path.cwd(), params, device=device)
    score_maps(ctx, maps, method_name, out or ctx.paths.outputs / "scored" / method_name)


@app.command(rich_help_panel="Use")
def methods() -> None:
    """List the baselines that `evaluate.methods` may name."""
    from rich.console import Console
    from rich.table import Table

    from aha_core.baselines import BASELINES

    table = Table("name", "applies to", "passes", "what it does", box=None)
    for spec in BASELINES.values():
        table.add_row(spec.name, spec.families, spec.passes, spec.description)
    Console().print(table)


app.add_typer(bench, name="bench", rich_help_panel="Research")
app.add_typer(study, name="study", rich_help_panel="Research")


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the libraries' own log messages.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of user errors.")] = False,
) -> None:
    import logging

    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `aha` and `python -m stages`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.exit(_guarded(arguments))


def _guarded(arguments: list[str]) -> int:
    """Exit code of a command; errors that a user can fix become one message, termination counts as Ctrl-C.

    So does a closed terminal, unless it is to be ignored (nohup): what `aha run` starts has a session of its own.
    """
    import signal

    from aha_core.allocator import keep_freed_memory
    from aha_core.errors import AhaError

    keep_freed_memory()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        app(arguments, prog_name="aha")
    except SystemExit as stop:  # how Typer ends: 2 for wrong usage, 130 for Ctrl-C
        code = stop.code if isinstance(stop.code, int) else 0
        if code == INTERRUPTED:
            typer.secho("interrupted; stages and studies continue with the same command", err=True, fg="yellow")
        return code
    except AhaError as error:
        if "--debug" in arguments:
            raise
        typer.secho(f"error: {error}", err=True, fg="red")
        return 1
    return 0
