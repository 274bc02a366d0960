"""Ray, torchrun and this process train alike; a killed driver continues to the same weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.stages.conftest import change, prepared_workspace, workspace  # noqa: F401 (fixtures)

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
        pd.testing.assert_frame_equal(alone.head(1), other.head(1), rtol=1e-4)
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
