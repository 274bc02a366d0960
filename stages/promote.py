"""`aha promote`: a run's model becomes a version in the registry, under an alias."""

from __future__ import annotations

import json

from aha_core.errors import TrackingError
from stages.paths import Paths
from stages.tracking import REGISTERED, promote


def run(paths: Paths, tracking_uri: str, run_id: str | None, alias: str) -> str:
    """Returns what to say. Raises TrackingError where there is no run."""
    if run_id is None:
        if not paths.run.is_file():
            raise TrackingError("no run in outputs/run.json; run `aha train`, or name a run (`aha ui` shows them)")
        run_id = str(json.loads(paths.run.read_text())["run_id"])
    version = promote(tracking_uri, run_id, alias)
    return f"{REGISTERED} version {version} is {alias}: aha explain IMAGE --explainer models:/{REGISTERED}@{alias}"
