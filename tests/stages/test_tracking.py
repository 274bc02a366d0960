"""MLflow for real: a database and a server, resumed runs, a loadable model, failures in the middle."""

import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from aha_core.errors import TrackingError
from stages import train
from stages.context import Context
from stages.tracking import Tracker


@pytest.fixture
def uri(tmp_path):
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_rows_of_a_resumed_run_are_logged_once(uri, tmp_path):
    tracker = Tracker(uri, tmp_path / "artifacts")
    tracker.log_params({"train": {"lr": 0.1, "steps": 3}, "seed": 1})
    for step in (1, 2):
        tracker.log_row({"step": step, "loss": 1.0 / step})
    again = Tracker(uri, tmp_path / "artifacts", run_id=tracker.run_id)
    for step in (2, 3):
        again.log_row({"step": step, "loss": 1.0 / step})
    again.log_params({"train": {"lr": 0.1, "steps": 3}, "seed": 1})
    again.finish()
    run = again.client.get_run(tracker.run_id)
    assert [point.step for point in again.client.get_metric_history(tracker.run_id, "train/loss")] == [1, 2, 3]
    assert run.data.params["train.lr"] == "0.1"
    assert run.info.status == "FINISHED"


def test_a_deleted_run_is_replaced(uri, tmp_path):
    first = Tracker(uri, tmp_path / "artifacts")
    first.client.delete_run(first.run_id)
    assert Tracker(uri, tmp_path / "artifacts", run_id=first.run_id).run_id != first.run_id


@pytest.mark.parametrize("bad", ["file:///tmp/mlruns", "mlruns"])
def test_file_stores_are_refused_with_an_example(bad, tmp_path):
    with pytest.raises(TrackingError, match="sqlite:////path/mlflow.db"):
        Tracker(bad, tmp_path)


def test_a_failure_in_the_middle_warns_and_goes_on(uri, tmp_path, monkeypatch):
    tracker = Tracker(uri, tmp_path / "artifacts")

    def broken(*args, **kwargs):
        raise ConnectionError("server went away")

    monkeypatch.setattr(tracker.client, "log_batch", broken)
    with pytest.warns(UserWarning, match="MLflow did not take the metrics .*server went away"):
        tracker.log_metrics({"a": 1.0})


def test_training_logs_parameters_and_curves(workspace, change):
    change("train", steps=2)
    ctx = Context.create(workspace, workers=0)
    train.run(ctx)
    tracker = Tracker.for_stage(ctx.tracking_uri, ctx.paths)
    run = tracker.client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.steps"] == "2"
    assert {"train/loss", "train/deletion_auc", "train/insertion_auc"} <= set(run.data.metrics)


@pytest.mark.timeout(300)
def test_a_real_server_takes_runs(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db",
         "--artifacts-destination", str(tmp_path / "store"), "--host", "127.0.0.1", "--port", str(port),
         "--workers", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        tracker = Tracker(f"http://127.0.0.1:{port}", tmp_path / "unused")
        tracker.log_row({"step": 1, "loss": 0.5})
        note = tmp_path / "note.txt"
        note.write_text("hello")
        tracker.log_files([note], "notes")
        tracker.finish()
        assert tracker.client.get_run(tracker.run_id).data.metrics["train/loss"] == 0.5
        assert [entry.path for entry in tracker.client.list_artifacts(tracker.run_id, "notes")] == ["notes/note.txt"]
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
