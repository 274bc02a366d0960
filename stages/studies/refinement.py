"""`aha study refinement`: which settings of `refine` suit this classifier, on images that it is trained on.

Settings are chosen on the training split, so that the held-out images stay unseen. Each setting explains the same
images, the predicted class, and is scored as `aha evaluate` scores, POS and NEG with the label; differences from the
active profile's settings are paired by image. `steps: 0` is the map that refinement starts from: the hybrid one, or
with `hybrid: false` that of one pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
import yaml
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from aha_core.attribution import Explainer
from aha_core.budget import passes_of
from aha_core.config import OptimiserName, Params, RefineConfig, parse_params
from aha_core.data.dataset import PreparedImages
from aha_core.errors import ConfigError
from aha_core.evaluation import Attempt
from aha_core.figures import settings_figure, to_png
from aha_core.files import atomic_json
from aha_core.hybrid import FINEST
from aha_core.metrics import bootstrap_ci, paired_difference
from aha_core.selection import evaluation_indices
from stages.bench import facts, save_csv, save_figure
from stages.context import Context
from stages.images import chunk_starts
from stages.studies.common import Chunk, Settings, cache, clean_explainer, scored_chunks, with_refinement

PRESET = "preset"
ACCURACY = ("pos", "neg")


@dataclass(frozen=True)
class Variant:
    """The active settings with some of them changed; without changes the preset."""

    changes: Settings
    config: RefineConfig

    @property
    def name(self) -> str:
        """As in params.yaml."""
        changes = ", ".join(f"{name} = {json.dumps(value)}" for name, value in self.changes.items())
        return changes.replace('"', "") or PRESET


def run(
    ctx: Context, out: Path, changes: Sequence[str] = (), images: int = 32, explainer_folder: Path | None = None
) -> None:
    """Score, write refinement.csv, .json and .png.

    Args:
        changes: one text "NAME=VALUE,NAME=VALUE" for each setting; where there is none `neighbours`.

    Raises ConfigError for a text of another form, or a name or value that `refine` does not take.
    """
    ctx.use_all_cores()
    others = [parsed(text) for text in changes] or neighbours(ctx.params)
    chosen = {one.name: one for one in (variant(ctx.params, each) for each in [{}, *others])}
    given = explainer_folder or ctx.paths.explainer
    explainer = clean_explainer(ctx, given)
    dataset = PreparedImages(ctx.paths.data, "train")
    indices = evaluation_indices(images, len(dataset))
    settings: Settings = {
        "images": len(indices), "split": "train", "preset": ctx.params.refine.model_dump(mode="json"),
        "references": list(ctx.params.evaluate.references), "points": ctx.params.evaluate.points,
        "precision": ctx.params.evaluate.precision, "trained_for": explainer.training.target,
    }  # fmt: skip
    store = cache(ctx, "refinement", settings, [given])
    parts: dict[str, list[Tensor]] = {name: [] for name in chosen}
    with ctx.bar() as bar:
        task = bar.add_task("refinement", total=len(chunk_starts(ctx, len(indices))) * len(chosen))
        for chunk in scored_chunks(ctx, dataset, indices, explainer.target, ("pos_neg",)):
            for name, one in chosen.items():
                bar.update(task, description=name[:12])

                def measure(one: Variant = one, chunk: Chunk = chunk) -> dict[str, Tensor]:
                    return {"scores": scores(with_refinement(explainer, one.config), chunk)}

                key = re.sub(r"[^\w=.,-]", "", name)
                parts[name].append(store.tensors(f"{key}-{chunk.start:05d}", measure)["scores"])
                bar.advance(task)
    columns = [*ctx.params.evaluate.references, *ACCURACY]
    found = {name: pd.DataFrame(torch.cat(own, dim=1).T.numpy(), columns=columns) for name, own in parts.items()}
    table = pd.DataFrame(rows(chosen, found, ctx))
    save_csv(table, out / "refinement.csv")
    family = f"{explainer.target.name}, {len(indices)} training images"
    figure = settings_figure(table.assign(family=family, default=table.setting == PRESET), "SRG")
    save_figure(to_png(figure), out / "refinement.png")
    atomic_json(out / "refinement.json", facts(ctx) | settings)
    ctx.console.print(summary(table))
    ctx.say(f"wrote refinement.csv, .json and .png to {out}")


def parsed(text: str) -> Settings:
    """{name: value} of "NAME=VALUE,NAME=VALUE", the values as in params.yaml. Raises ConfigError for another form."""
    try:
        found = yaml.safe_load("{" + text.replace("=", ": ") + "}")
    except yaml.YAMLError:
        found = None
    if not found or None in found.values():
        raise ConfigError(f"--set {text!r}: write NAME=VALUE, e.g. --set grid=56,lr=0.3; names are those of `refine`")
    return dict(found)


def variant(params: Params, changes: Settings) -> Variant:
    """Raises ConfigError for a name or value that `refine` does not take."""
    raw = params.model_dump(mode="json")
    return Variant(changes, parse_params(raw | {"refine": raw["refine"] | changes}, "--set").refine)


def neighbours(params: Params) -> list[Settings]:
    """Each number halved and doubled, one at a time, the other way to step, and what refinement starts from."""
    config = params.refine
    finest = params.data.image_size // FINEST
    grid = min(config.grid, finest)
    found: list[Settings] = [{"grid": side} for side in (grid // 2, 2 * grid) if 2 <= side <= finest]
    for name in ("lr", "tau", *(("hybrid_weight",) if config.hybrid else ())):
        found += [{name: round(factor * getattr(config, name), 6)} for factor in (0.5, 2)]
    if config.change == "map":
        found += [{"optimiser": name} for name in get_args(OptimiserName) if name != config.optimiser]
    starts: list[Settings] = [{"hybrid": not config.hybrid}, {"steps": 0}, {"steps": 0, "hybrid": False}]
    return found + starts


def scores(explainer: Explainer, chunk: Chunk) -> Tensor:
    """(R + 2, B) of B images: SRG by reference, POS and NEG."""
    config = explainer.refinement
    maps = explainer.attribute(chunk.x, chunk.classes, config.steps, hybrid=config.hybrid)
    found = chunk.evaluator.score("aha", Attempt(maps, {}))  # rows: all images of a reference, then of the next
    srg = torch.tensor([row["srg"] for row in found.rows], dtype=torch.float64).view(-1, len(maps))
    free = torch.tensor([[row[name] for row in found.free] for name in ACCURACY], dtype=torch.float64)
    return torch.cat([srg, free])


def rows(chosen: dict[str, Variant], found: dict[str, pd.DataFrame], ctx: Context) -> list[dict[str, Any]]:
    """A row for each setting: passes, means, and differences from the preset: SRG, by reference, POS and NEG."""
    resamples, seed, table = ctx.params.evaluate.bootstrap, ctx.params.seed, []
    references = list(ctx.params.evaluate.references)
    for name, values in found.items():
        config, base = chosen[name].config, found[PRESET]
        srg = bootstrap_ci(values[references].mean(axis=1).to_numpy(), resamples, seed)
        row: dict[str, Any] = {"setting": name, "passes": passes_of(config, config.steps, config.hybrid)}
        row |= {"srg": srg.mean, "low": srg.low, "high": srg.high} | values.mean().to_dict()
        compared = {"difference": references} | {f"{one}_difference": [one] for one in values}
        for column, own in compared.items() if name != PRESET else ():
            pair = [one[own].mean(axis=1).to_numpy() for one in (values, base)]
            gap = paired_difference(pair[0], pair[1], resamples, seed)
            row |= {column: gap.mean, f"{column}_low": gap.low, f"{column}_high": gap.high}
        table.append(row)
    return table


def summary(table: pd.DataFrame) -> Table:
    shown = Table("setting", "passes", "SRG", "difference, 95 %", "POS", "NEG", box=None)
    for row in table.to_dict("records"):
        gap = (
            "" if row["setting"] == PRESET
            else f"{row['difference']:+.3f} {row['difference_low']:+.3f}..{row['difference_high']:+.3f}"
        )  # fmt: skip
        shown.add_row(
            escape(row["setting"]),
            f"{row['passes']:,}",
            f"{row['srg']:.3f}",
            gap,
            f"{row['pos']:.1f}",
            f"{row['neg']:.1f}",
        )
    return shown
