"""Ray, torchrun and this process train and evaluate alike; a killed driver continues to the same results."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from safetensors.torch import load_file

from aha_core.errors import DataError, ResourceError
from stages import evaluate, launch
from stages.context import Context
from tests.conftest import ROOT
from tests.stages.conftest import change, prepared_workspace, refined, workspace  # noqa: F401 (fixtures)

pytestmark = pytest.mark.timeout(900)


def start(cwd: Path, *command: str) -> subprocess.Popen:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-3000:]


def curve(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "outputs/plots/training.csv")


def weights(root: Path) -> dict:
    return load_file(root / "outputs/explainer/explainer.safetensors")


TRAIN = (sys.executable, "-m", "stages", "train")


def test_one_process_torchrun_and_ray_give_the_same_losses(workspace):  # noqa: F811
    finish(start(workspace, *TRAIN, "--workers", "0"))
    alone = curve(workspace)
    finish(start(workspace, "torchrun", "--nproc-per-node", "2", "-m", "stages", "train"))
    torchrun = curve(workspace)
    finish(start(workspace, *TRAIN, "--workers", "2"))
    on_ray = curve(workspace)
    assert len(alone) == 6
    losses = ["step", "loss", "deletion_auc", "insertion_auc", "smoothness"]
    for other in (torchrun, on_ray):
        # before the first update nothing but the order of sums differs: the same images, masks, classes and noise
        pd.testing.assert_frame_equal(alone[losses].head(1), other[losses].head(1), rtol=1e-4)
        # a small difference of large parts, whose rounding depends on the processor: 1.5e-4 with AVX2
        pd.testing.assert_frame_equal(alone.head(1), other.head(1), rtol=5e-4)
        # then Adam divides by tiny second moments, which enlarges that rounding: least in the scores, most in the norm
        pd.testing.assert_frame_equal(alone[losses], other[losses], rtol=5e-3)
    assert not (workspace / ".aha/training").exists() or not list((workspace / ".aha/training").iterdir())


@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_driver_continues_to_the_uninterrupted_weights(workspace, change, workers):  # noqa: F811
    change("train", steps=40, checkpoint_every=5, report_every=5)
    finish(start(workspace, *TRAIN, "--workers", workers))
    expected, expected_curve = weights(workspace), curve(workspace)
    doomed = start(workspace, *TRAIN, "--workers", workers)
    wanted = "**/final.pt" if workers == "2" else "**/checkpoint.pt"
    deadline = time.monotonic() + 300
    while not list((workspace / ".aha/training").glob(wanted)):
        assert doomed.poll() is None, doomed.communicate()[0][-2000:]
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    doomed.stdout.close()
    again = start(workspace, *TRAIN, "--workers", workers)
    output, _ = again.communicate(timeout=600)
    assert again.returncode == 0, output[-3000:]
    assert "continuing the run" in output
    pd.testing.assert_frame_equal(expected_curve, curve(workspace))
    resumed = weights(workspace)
    assert all((expected[name] == resumed[name]).all() for name in expected)


EVALUATE = (sys.executable, "-m", "stages", "evaluate")


@pytest.fixture
def evaluation(workspace, change) -> Path:  # noqa: F811
    """A workspace ready for `aha evaluate`: three chunks of images, one thread, two class roles, methods with noise."""
    change(
        "evaluate", methods=["random", "grad_cam", "rise", "smoothgrad"], classes=["predicted", "label"], bootstrap=10
    )
    change("resources", batch_size=2, threads=0)
    refined(workspace)
    return workspace


def results(root: Path) -> dict[str, bytes]:
    folders = [root / "outputs" / name for name in ("evaluation", "metrics", "plots")]
    return {str(file.relative_to(root)): file.read_bytes() for folder in folders for file in sorted(folder.iterdir())}


def test_rows_do_not_depend_on_the_number_of_workers_even_after_a_kill(evaluation):
    finish(start(evaluation, *EVALUATE, "--workers", "0"))
    alone = results(evaluation)
    assert {"outputs/evaluation/scores.parquet", "outputs/evaluation/checks.parquet"} <= set(alone)
    finish(start(evaluation, *EVALUATE, "--workers", "2"))
    assert results(evaluation) == alone
    doomed = start(evaluation, *EVALUATE, "--workers", "2")
    deadline = time.monotonic() + 300
    while not list((evaluation / ".aha/evaluation").glob("*/*.npz")):
        assert doomed.poll() is None, doomed.communicate()[0][-2000:]
        assert time.monotonic() < deadline, "no part appeared"
        time.sleep(0.02)
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    doomed.stdout.close()
    again = start(evaluation, *EVALUATE, "--workers", "0")
    output, _ = again.communicate(timeout=600)
    assert again.returncode == 0, output[-3000:]
    assert "continuing the evaluation" in output
    assert results(evaluation) == alone


def test_a_failing_worker_is_reported_and_its_rows_are_kept(evaluation, monkeypatch):
    ctx = Context.create(evaluation, workers=2)
    share = evaluate.share

    def dying(*arguments):
        share(*arguments)
        if arguments[-2] == 1:
            os._exit(1)

    monkeypatch.setattr(evaluate, "share", dying)
    with pytest.raises(ResourceError, match="a worker died .* the same command continues"):
        evaluate.run(ctx)
    (store,) = (evaluation / ".aha/evaluation").iterdir()
    assert len(list(store.glob("*.0000002.*.npz"))) == 2 * 7  # rank 1 scored the second chunk before it died


def test_more_workers_than_gpus_are_refused_and_not_waited_for(tmp_path):
    job = SimpleNamespace(storage=str(tmp_path), device="cuda", threads=1)
    with pytest.raises(ResourceError, match=r"99 workers want a GPU each, this machine has \d+: --workers \d+"):
        launch.on_ray(job, 99, print)


def test_spread_raises_the_workers_own_error(tmp_path):
    def work(rank: int, world: int) -> None:
        (tmp_path / f"{rank} of {world}").touch()
        if rank == 1:
            raise DataError("rank 1 found no image")

    with pytest.raises(DataError, match="^rank 1 found no image$"):
        launch.spread(work, 2, "cpu", 1, lambda: None)
    assert (tmp_path / "1 of 2").exists()
