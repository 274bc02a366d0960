"""The logged model: in Python, from the registry, and behind `mlflow models serve`, always the API's answer."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from aha_core.attribution import Explainer
from aha_core.errors import TrackingError
from stages import promote, train
from stages.context import Context
from stages.own import load_explainer
from stages.tracking import fetch_model, load_model

MODEL = "models:/aha-explainer@champion"


@pytest.fixture(scope="module")
def ctx(prepared_workspace, tmp_path_factory) -> Context:
    """A workspace whose run holds a model, promoted to champion."""
    root = tmp_path_factory.mktemp("served") / "w"
    shutil.copytree(prepared_workspace, root)
    raw = yaml.safe_load((root / "params.yaml").read_text())
    raw["train"] |= {"steps": 2}
    raw["resources"] |= {"threads": 1}
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    ctx = Context.create(root, workers=0, device="cpu", tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    train.run(ctx)
    said = promote.run(ctx.paths, ctx.tracking_uri, None, "champion")
    assert said == f"aha-explainer version 1 is champion: aha explain IMAGE --explainer {MODEL}"
    return ctx


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """As large as the classifier's input: no resizing on the way."""
    return np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)


def as_base64(photo: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def as_tensor(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255


def check(record: dict, ctx: Context, photo: np.ndarray, wanted: int | None = None, steps: int = 0) -> None:
    """The record is what the API gives."""
    explainer, x = Explainer.load(ctx.paths.outputs), as_tensor(photo)
    probabilities = explainer.target.probabilities(x)[0]
    index = int(probabilities.argmax()) if wanted is None else wanted
    assert (record["index"], record["class"]) == (index, explainer.target.class_names[index])
    assert record["probability"] == pytest.approx(float(probabilities[index]), abs=1e-5)
    expected = explainer.attribute(x, index, steps)[0, 0].numpy()
    np.testing.assert_allclose(np.asarray(record["map"], np.float32), expected, atol=1e-4)
    with Image.open(io.BytesIO(base64.b64decode(record["overlay"]))) as picture:
        assert picture.size == (32, 32)


def test_the_logged_model_answers_like_the_api(ctx, photo, unchecked_types):
    predict = load_model(ctx.tracking_uri, MODEL)
    table = pd.DataFrame({"image": [as_base64(photo), as_tensor(photo)[0].numpy()], "class": [None, "ring"]})
    first, second = predict(table)
    check(first, ctx, photo)
    check(second, ctx, photo, wanted=3)
    numbers = predict(table.assign(**{"class": [3, None]}))  # pandas makes 3.0 and NaN of them
    check(numbers[0], ctx, photo, wanted=3)
    check(numbers[1], ctx, photo, wanted=first["index"])
    check(predict(table[["image"]], params={"steps": 1})[0], ctx, photo, steps=1)


def test_a_bad_row_says_why_and_spoils_no_other(ctx, photo, unchecked_types):
    good = as_base64(photo)
    images = [good, "no base64!", base64.b64encode(b"no image").decode(), np.zeros((2, 2)), good]
    table = pd.DataFrame({"image": images, "class": ["rung", "", "", "", "0"]})
    *errors, fine = load_model(ctx.tracking_uri, MODEL)(table)
    words = ["class 'rung' is not .* did you mean ring", "neither base64 text", "not an image", r"got \(2, 2\)"]
    for record, pattern in zip(errors, words, strict=True):
        assert set(record) == {"error"}
        with pytest.raises(ValueError, match=pattern):
            raise ValueError(record["error"])
    check(fine, ctx, photo, wanted=0)


def test_a_run_is_registered_once(ctx):
    assert "version 1 is second" in promote.run(ctx.paths, ctx.tracking_uri, None, "second")


def test_aha_explain_takes_it_from_the_registry(ctx, photo):
    explainer = load_explainer(ctx, MODEL, None, None)
    x = as_tensor(photo)
    assert torch.equal(explainer.attribute(x), Explainer.load(ctx.paths.outputs).attribute(x))


def test_what_is_not_there_is_said(ctx, tmp_path):
    with pytest.raises(TrackingError, match="no model models:/aha-explainer@rival .* `aha promote --alias champion`"):
        fetch_model(ctx.tracking_uri, "models:/aha-explainer@rival")
    with pytest.raises(TrackingError, match="no run 0123 in sqlite"):
        promote.run(ctx.paths, ctx.tracking_uri, "0123", "champion")
    with pytest.raises(TrackingError, match="no run in outputs/run.json; run `aha train`"):
        promote.run(replace(ctx.paths, root=tmp_path), ctx.tracking_uri, None, "champion")


@pytest.mark.timeout(300)
def test_mlflow_serves_the_apis_answer(ctx, photo, unchecked_types):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MLFLOW_TRACKING_URI": ctx.tracking_uri, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", "-m", MODEL, "--env-manager", "local", "--host",
         "127.0.0.1", "--port", str(port), "--workers", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(240):
            assert server.poll() is None
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        rows = [{"image": as_base64(photo)}, {"image": as_tensor(photo)[0].tolist(), "class": "ring"}]
        body = json.dumps({"dataframe_records": rows, "params": {"steps": 0}}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            first, second = json.load(answer)["predictions"]
        check(first, ctx, photo)
        check(second, ctx, photo, wanted=3)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
