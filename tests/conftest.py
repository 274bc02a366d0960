"""Shared by all tests: offline and quiet libraries, the checkout's root."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run beside each other
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0", DVC_NO_ANALYTICS="1", MLFLOW_DISABLE_TELEMETRY="true", HF_HUB_OFFLINE="1",
    RAY_worker_niceness="0",  # Ray's own, 15, starves its workers beside the other tests
)  # fmt: skip

import jaxtyping
import pytest

import tests.typecheck  # noqa: F401 (the hook looks it up)

jaxtyping.install_import_hook("aha_core", "tests.typecheck.checker")  # tests check every annotated shape


@pytest.fixture
def unchecked_types():
    """For tests of our own messages about wrong shapes, which the type checker would forestall."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


ROOT = Path(__file__).resolve().parents[1]


def small_params() -> dict:
    """The embedded profile, small enough for a test: 32 px, few images and steps."""
    from aha_core.config import load_params

    raw = load_params(ROOT / "params.yaml").model_dump(mode="json")
    raw["data"] |= {"image_size": 32, "synthetic": {"train": 40, "val": 20, "test": 20}}
    raw["perturbation"] |= {"blur_kernel": 15, "blur_sigma": 15}
    raw["target"]["train"] |= {"epochs": 1, "batch_size": 20}
    raw["explainer"] |= {"width": 16, "depth": 1}
    raw["train"] |= {"steps": 6, "batch_size": 4, "report_every": 1, "checkpoint_every": 3}
    raw["ranking"] |= {"grid_min": 4, "grid_max": 8}
    raw["refine"] |= {"steps": 2, "fractions": 1, "grid": 8}
    raw["evaluate"] |= {
        "images": 6,
        "points": 5,
        "ig_steps": 2,
        "rise_masks": 4,
        "patch_grid": 2,
        "mask_steps": 2,
        "bootstrap": 50,
        "gallery": 3,
    }
    raw["evaluate"]["checks"] |= {"methods": ["aha", "centre"], "images": 2, "mosaics": 1, "draws": 1, "depths": 1}
    raw["report"] |= {"gallery": 3, "strip": 2}
    return raw
