"""The sub-commands of `aha bench`. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages.options import Device, ParamsFile

bench = typer.Typer(no_args_is_help=True, help="Measure cost and fidelity, in one run on this machine.")
PAPER_PRESET = Path("configs/embedded-paper.yaml")
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads of the measured process.")]
BenchOut = Annotated[Path, typer.Option("--out", help="Folder for tables (CSV) and figures.")]


@bench.command("ranking")
def bench_ranking(
    out: BenchOut = Path("outputs/bench"),
    pairs: Annotated[int, typer.Option(min=0, help="Monte-Carlo pairs of the hard gradient; 0 = none.")] = 512,
    max_cells: Annotated[int, typer.Option(min=49, help="Leave out larger rankings.")] = 50_176,
    params: ParamsFile = None,
    threads: Threads = 1,
    device: Device = None,
) -> None:
    """Time, memory and fidelity of every relaxation, for 49 to 50,176 cells."""
    from aha_core.benchmarks.ranking import CELLS
    from stages.bench import bench_context, ranking

    cells = tuple(count for count in CELLS if count <= max_cells)
    ranking(bench_context(params, device, threads), out, pairs, cells)


@bench.command("train")
def bench_train(
    against: Annotated[Path, typer.Option(help="Parameter file to compare with.")] = PAPER_PRESET,
    out: BenchOut = Path("outputs/bench"),
    minutes: Annotated[float, typer.Option(min=0, help="Training time of each preset; 0 = only the cost.")] = 5.0,
    images: Annotated[int, typer.Option(min=2, help="Held-out images.")] = 100,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step, for both presets.")] = None,
    params: ParamsFile = None,
    threads: Threads = 1,
    device: Device = None,
) -> None:
    """Cost of a training step and held-out quality over time, against another preset."""
    from stages.bench import bench_context, training

    training(bench_context(params, device, threads), against, out, minutes, images, batch_size)


@bench.command("passes")
def bench_passes(
    out: BenchOut = Path("outputs/bench"),
    images: Annotated[int, typer.Option(min=1, help="Images per pass.")] = 16,
    compiled: Annotated[bool, typer.Option("--compile", help="Also torch.compile (minutes).")] = False,
    params: ParamsFile = None,
    threads: Threads = 1,
    device: Device = None,
) -> None:
    """Cost of a masked pass through the target, by number format, layout and attention kernel."""
    from stages.bench import bench_context, passes

    passes(bench_context(params, device, threads), out, images, compiled)


@bench.command("evaluation")
def bench_evaluation(
    out: BenchOut = Path("outputs/bench"),
    images: Annotated[int, typer.Option(min=1, help="Images scored in a round.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds.")] = 5,
    params: ParamsFile = None,
    threads: Threads = 1,
    device: Device = None,
) -> None:
    """Throughput of deletion and insertion against the target's plain forward passes."""
    from stages.bench import bench_context, evaluation

    evaluation(bench_context(params, device, threads), out, images, rounds)


@bench.command("explain")
def bench_explain(
    images: Annotated[
        list[str] | None, typer.Argument(help="Files, folders, patterns; default: the test images.", metavar="IMAGE…")
    ] = None,
    out: BenchOut = Path("outputs/bench"),
    count: Annotated[int, typer.Option("--images", min=1, help="At most so many of them.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds.")] = 3,
    params: ParamsFile = None,
    threads: Threads = 1,
    device: Device = None,
) -> None:
    """Throughput of `aha explain` against decoding and the target's plain forward passes; memory."""
    from stages.bench import bench_context
    from stages.bench_explain import run as measure_explain
    from stages.own import parameters

    measure_explain(bench_context(parameters(Path.cwd(), params), device, threads), out, images or [], count, rounds)


@bench.command("methods")
def bench_methods(
    out: BenchOut = Path("outputs/bench"),
    images: Annotated[int, typer.Option(min=1, help="Images in the measured batch.")] = 8,
    params: ParamsFile = None,
    threads: Threads = 1,
    device: Device = None,
) -> None:
    """Time, memory and passes per map of AHA and every configured method, each in a process of its own."""
    from stages.bench import bench_context
    from stages.bench_methods import run as measure_methods

    measure_methods(bench_context(params, device, threads), out, images)
