"""`aha export`: target and explainer as one graph in a file."""

from __future__ import annotations

from pathlib import Path

from aha_core.export import ENDINGS, Format, export
from stages.context import Context
from stages.own import load_explainer


def run(
    ctx: Context, kind: Format, out: Path | None, explainer: str | None, target: str | None, weights: Path | None
) -> None:
    """Write the graph, say how large, how exact and how fast it is."""
    ctx.use_all_cores()
    made = export(load_explainer(ctx, explainer, target, weights), out or Path(f"explainer{ENDINGS[kind]}"), kind)
    ours, theirs = (1000 * seconds for seconds in made.latency)
    ctx.say(
        f"{made.file}: {made.size / 2**20:.1f} MiB; largest difference to the library {made.map_error:.1e} in maps, "
        f"{made.probability_error:.1e} in probabilities; one image {theirs:.1f} ms ({ours:.1f} ms in the library, "
        f"{ctx.cores} threads)"
    )
