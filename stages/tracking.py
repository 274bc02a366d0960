"""MLflow: the only module that imports it.

One run stands for one trained explainer: training writes parameters and live curves, later stages add their scores,
figures and the report to the same run. Unreachable at the start is an error with the remedy; a failure later is a
warning, because hours of training are worth more than a point of a curve.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType
from PIL import Image

from aha_core.errors import TrackingError
from stages.paths import Paths

logging.getLogger("mlflow").setLevel(logging.WARNING)
EXPERIMENT = "aha"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens with runs and charts
MODEL = "explainer"  # of a run
REGISTERED = "aha-explainer"  # in the registry
CONNECT_SECONDS = 5.0


class Tracker:
    """One MLflow run.

    Args:
        uri: tracking store, `sqlite:////absolute/path` or a server.
        run_id: continue this run if it still exists.
        name: name of a new run.

    Raises TrackingError when the store cannot be reached.
    """

    def __init__(self, uri: str, artifacts: Path, run_id: str | None = None, name: str = "aha") -> None:
        self.uri = uri
        _check_reachable(uri)
        try:
            self.client = MlflowClient(uri)
            self.run_id = self._existing(run_id) or self._create(artifacts, name)
            self.logged_step = self._last_step()
        except Exception as error:  # database, HTTP and MLflow errors have no common base
            raise TrackingError(_unreachable(uri, error)) from error

    @classmethod
    def for_stage(cls, uri: str, paths: Paths) -> Tracker:
        """The run that training noted in run.json; a new one where that is gone (another store, a fresh clone)."""
        known = json.loads(paths.run.read_text())["run_id"] if paths.run.is_file() else None
        return cls(uri, paths.state / "mlartifacts", known)

    def _existing(self, run_id: str | None) -> str | None:
        if run_id is None:
            return None
        try:
            run = self.client.get_run(run_id)
        except MlflowException:
            return None  # another store, or deleted by the user
        return run_id if run.info.lifecycle_stage == "active" else None

    def reopen(self) -> None:
        """A killed training goes on: the run shows as running again."""
        with self._tolerant("status"):
            self.client.update_run(self.run_id, status="RUNNING")

    def _create(self, artifacts: Path, name: str) -> str:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            experiment_id = experiment.experiment_id
        else:
            local = self.uri.startswith("sqlite:")
            location = artifacts.resolve().as_uri() if local else None
            experiment_id = self.client.create_experiment(EXPERIMENT, artifact_location=location, tags=KIND)
        return self.client.create_run(experiment_id, run_name=name).info.run_id

    def _last_step(self) -> int:
        history = self.client.get_metric_history(self.run_id, "train/loss")
        return max((metric.step for metric in history), default=-1)

    def log_params(self, params: dict[str, Any]) -> None:
        """Nested parameters under dotted names; parameters of an existing run stay as they are."""
        with self._tolerant("parameters"):
            known = self.client.get_run(self.run_id).data.params
            for name, value in _flatten(params):
                if name not in known:
                    self.client.log_param(self.run_id, name, value)

    def log_row(self, row: dict[str, float]) -> None:
        """A point of the training curve; points that a resumed run repeats are skipped."""
        step = int(row["step"])
        if step <= self.logged_step:
            return
        with self._tolerant("curve"):
            self.log_metrics({f"train/{name}": value for name, value in row.items() if name != "step"}, step)
            self.logged_step = step

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        from time import time

        from mlflow.entities import Metric

        with self._tolerant("metrics"):
            now = int(time() * 1000)
            entities = [Metric(name, float(value), now, step) for name, value in metrics.items()]
            self.client.log_batch(self.run_id, metrics=entities)

    def log_files(self, files: Iterable[Path], folder: str) -> None:
        with self._tolerant("files"):
            for file in files:
                self.client.log_artifact(self.run_id, str(file), folder)

    def log_model(self, explainer: Path, target: Path, image_size: int, requirements: list[str]) -> None:
        """The explainer with its target as an MLflow pyfunc; requests and answers: `aha_core.pyfunc`."""
        import shutil
        import tempfile

        package = Path(__file__).resolve().parents[1] / "aha_core"
        signature = ModelSignature(
            inputs=Schema([ColSpec(AnyType(), "image"), ColSpec(AnyType(), "class", required=False)]),
            params=ParamSchema([ParamSpec("steps", DataType.integer, 0)]),
        )
        example = pd.DataFrame({"image": [_grey_image(image_size)] * 2, "class": ["", "0"]})
        with self._tolerant("model"), tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "aha"
            shutil.copytree(explainer, data / "explainer")
            shutil.copytree(target, data / "target")
            mlflow.set_tracking_uri(self.uri)
            with mlflow.start_run(run_id=self.run_id, log_system_metrics=False):
                mlflow.pyfunc.log_model(
                    name=MODEL, loader_module="aha_core.pyfunc", data_path=str(data), code_paths=[str(package)],
                    signature=signature, pip_requirements=requirements,
                    input_example=example,
                )  # fmt: skip

    def finish(self, status: str = "FINISHED") -> None:
        """Status FINISHED, FAILED or KILLED."""
        with self._tolerant("status"):
            self.client.set_terminated(self.run_id, status)

    @contextmanager
    def _tolerant(self, what: str) -> Any:
        try:
            yield
        except Exception as error:  # see the module's docstring
            message = str(error).splitlines()[0][:200] if str(error) else ""
            warnings.warn(f"MLflow did not take the {what} ({type(error).__name__}: {message})", stacklevel=3)


def _check_reachable(uri: str) -> None:
    """A quick TCP probe: MLflow itself would retry for minutes."""
    parts = urlparse(uri)
    if parts.scheme == "file" or not parts.scheme:
        raise TrackingError(
            f"tracking URI {uri!r}: MLflow needs a database or a server, e.g. sqlite:////path/mlflow.db"
        )
    if parts.scheme == "sqlite":
        Path(parts.path.removeprefix("/")).parent.mkdir(parents=True, exist_ok=True)
        return
    if parts.scheme not in ("http", "https"):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise TrackingError(_unreachable(uri, error)) from error


def _unreachable(uri: str, error: Exception) -> str:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return (
        f"the MLflow store {_shown(uri)} cannot be used ({reason}); start the server, or "
        "unset MLFLOW_TRACKING_URI to use the local database, or pass --tracking-uri"
    )


def _flatten(params: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def ui_command(uri: str, port: int) -> list[str]:
    """The command that shows the store in a browser, on localhost only."""
    import sys

    options = {"--backend-store-uri": uri, "--host": "127.0.0.1", "--port": str(port)}
    return [sys.executable, "-m", "mlflow", "server", *(word for option in options.items() for word in option)]


def load_model(uri: str, model: str) -> Callable[..., list[dict[str, Any]]]:
    """`predict` of a logged model, e.g. model = "runs:/<id>/explainer"."""
    mlflow.set_tracking_uri(uri)
    predict: Callable[..., list[dict[str, Any]]] = mlflow.pyfunc.load_model(model).predict
    return predict


def promote(uri: str, run_id: str, alias: str) -> int:
    """Register the run's model under `REGISTERED`, once, and point the alias to it; returns the version.

    Raises TrackingError for a run that is not there or has no model, and for an alias that MLflow refuses.
    """
    _check_reachable(uri)
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri)
    try:
        client.get_run(run_id)
    except MlflowException as error:
        raise TrackingError(f"no run {run_id} in {_shown(uri)}; `aha ui` shows the runs") from error
    known = client.search_model_versions(f"name='{REGISTERED}' and run_id='{run_id}'")
    try:
        version = int(known[0].version if known else _register(run_id).version)
        client.set_registered_model_alias(REGISTERED, alias, str(version))
    except MlflowException as error:
        raise TrackingError(f"run {run_id} cannot become {REGISTERED}@{alias}: {error.message}") from error
    return version


def _register(run_id: str) -> Any:
    logging.getLogger("mlflow.store.model_registry").setLevel(logging.WARNING)
    return mlflow.register_model(f"runs:/{run_id}/{MODEL}", REGISTERED)


def fetch_model(uri: str, model: str) -> Path:
    """The folder with explainer/ and target/ of a logged or registered model: models:/NAME@ALIAS, runs:/ID/explainer.

    Raises TrackingError for a model that is not there, or that is none of ours.
    """
    _check_reachable(uri)
    mlflow.set_tracking_uri(uri)
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=model))
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise TrackingError(
            f"no model {model} in {_shown(uri)} ({reason}); `aha promote --alias champion` registers the pipeline's"
        ) from error
    found = next(folder.glob("data/*/explainer/explainer.json"), None)
    if found is None:
        raise TrackingError(f"{model} is no explainer of AHA: it has no explainer.json")
    return found.parent.parent


def _grey_image(side: int) -> str:
    """Base64 text of a PNG, the example of a request."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "grey").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _shown(uri: str) -> str:
    """Without user and password."""
    return urlparse(uri)._replace(netloc=urlparse(uri).netloc.rpartition("@")[2]).geturl()
