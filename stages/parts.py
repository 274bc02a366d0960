"""Finished parts of an evaluation on disk: a killed `aha evaluate` continues where it stopped.

One file per (class role, chunk of images, method), there whole or not at all, below `<state>/evaluation/<digest>`. The
digest covers everything that a part depends on: target, data, refined maps, parameters, chunk size, device, threads and
code. Results are always put together from the files, in a fixed order, so an interrupted run and any number of
processes give the same bytes. Parts with failures are computed again by the next run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import aha_core
from aha_core.evaluation import Part
from aha_core.files import atomic_json, atomic_path
from stages.context import Context

ROWS = ("rows", "free", "localisation", "failures", "cost")
CODE = (  # of the library: what scores and maps depend on
    "attribution.py", "baselines/*.py", "changes.py", "checks.py", "classifiers/*.py", "cost.py", "descent.py",
    "evaluation.py", "explainer/*.py",
    "hybrid.py", "masked_passes.py", "measures.py", "memory.py", "metrics/*.py", "objective.py", "order.py",
    "perturbation.py", "precision.py", "ranking/*.py", "references.py", "refinement.py", "scoring.py", "shapley.py",
    "targets.py",
)  # fmt: skip
NOT_IN_A_PART = {"bootstrap", "methods", "slices", "max_failed"}
Plan = dict[int, list[str]]  # the first place of each chunk of images, in order, and the methods that are scored there


class PartStore:
    """Parts of one evaluation.

    Args:
        folder: of the files; created with the first part.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, role: str, start: int, method: str) -> Path:
        return self.folder / f"{role}.{start:07d}.{method}.npz"

    def has(self, role: str, start: int, method: str) -> bool:
        return self.file(role, start, method).is_file()

    def unfinished(self, role: str, plan: Plan) -> Plan:
        """The chunks of which parts are missing."""
        return {
            start: methods
            for start, methods in plan.items()
            if not all(self.has(role, start, method) for method in methods)
        }

    def count_parts(self) -> int:
        return len(list(self.folder.glob("*.npz")))

    def save(self, start: int, part: Part) -> None:
        texts = {name: np.array(json.dumps(getattr(part, name))) for name in ROWS}
        curves = {f"curves/{name}": values for name, values in part.curves.items()}
        with atomic_path(self.file(part.role, start, part.method)) as temporary:
            np.savez(temporary, allow_pickle=False, gallery=part.gallery, **texts, **curves)

    def load(self, role: str, start: int, method: str) -> Part:
        with np.load(self.file(role, start, method), allow_pickle=False) as stored:
            texts: dict[str, Any] = {name: json.loads(str(stored[name])) for name in ROWS}
            curves = {name.removeprefix("curves/"): stored[name] for name in stored if name.startswith("curves/")}
            return Part(role=role, method=method, curves=curves, gallery=stored["gallery"], **texts)

    def save_check(self, method: str, rows: list[dict[str, Any]]) -> None:
        atomic_json(self.folder / f"check.{method}.json", rows)

    def load_check(self, method: str) -> list[dict[str, Any]] | None:
        """Rows of `save_check`, None where there are none yet."""
        file = self.folder / f"check.{method}.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def drop_failed(self, roles: Iterable[str], plan: Plan) -> int:
        """Remove parts in which an image failed, so that they are tried again; returns how many."""
        places = [(role, start, method) for role in roles for start, methods in plan.items() for method in methods]
        failed = [place for place in places if self.has(*place) and self.load(*place).failures]
        for place in failed:
            self.file(*place).unlink()
        return len(failed)


def store_folder(ctx: Context) -> Path:
    """The folder of this evaluation's parts: same inputs, same folder."""
    params, paths = ctx.params, ctx.paths
    digest = hashlib.sha256()
    settings = params.model_dump(mode="json", include={"seed", "perturbation", "evaluate"})
    settings["evaluate"] = {key: value for key, value in settings["evaluate"].items() if key not in NOT_IN_A_PART}
    settings["refine"] = params.refine.model_dump(mode="json", exclude={"steps"})  # for hybrid maps and checks
    settings["chunk"] = params.resources.batch_size
    settings |= {"device": ctx.device, "threads": ctx.scoring_threads, "memory": params.resources.memory_gb}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    package = Path(aha_core.__file__).parent
    files = [paths.data / "manifest.json", paths.target / "target.json", paths.target / "model.safetensors"]
    for folder in (paths.explainer, paths.fastshap, paths.refined):
        files += sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    files += [file for pattern in CODE for file in sorted(package.glob(pattern))]
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return paths.state / "evaluation" / digest.hexdigest()[:12]
