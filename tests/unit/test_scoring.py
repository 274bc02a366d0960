"""The scorer of evaluation: exact probabilities, passes that fit into memory."""

import pytest
import timm
import torch

from aha_core.errors import ResourceError
from aha_core.memory import GIB, activation_bytes, images_within
from aha_core.scoring import Scorer
from aha_core.targets import Target

X = torch.rand((5, 3, 32, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def target() -> Target:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=12, depth=2, num_heads=1, num_classes=3)
    return Target("vit", model, 32, ["a", "b", "c"])


def test_probabilities_are_the_targets(target):
    with torch.no_grad():
        assert Scorer(target, "fp32", 2, 1.0)(X).allclose(target(X).softmax(dim=1), atol=1e-6)
        rounded = Scorer(target, "bf16", 2, 1.0)(X)
    assert rounded.dtype == torch.float32 and rounded.sum(dim=1).allclose(torch.ones(5), atol=1e-6)
    assert 0 < (rounded - target.probabilities(X)).abs().max() < 0.02


def watched(target: Target, monkeypatch: pytest.MonkeyPatch, limit: int = 99) -> list[int]:
    """Sizes of the target's passes from now on; larger ones than the limit run out of memory."""
    sizes: list[int] = []
    plain = type(target).forward

    def forward(self, x):
        sizes.append(len(x))
        if len(x) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, x)

    monkeypatch.setattr(type(target), "forward", forward)
    return sizes


def test_passes_fit_into_the_cap_and_into_the_batch(target, monkeypatch):
    per_image = GIB * 1.0 / Scorer(target, "fp32", 10**9, 1.0).batch_size
    assert 4 * X[0].numel() < per_image < 100 * 4 * X[0].numel()
    capped = Scorer(target, "fp32", 32, 2.5 * per_image / GIB)
    assert capped.batch_size == 2 and Scorer(target, "fp32", 4, 1.0).batch_size == 4
    assert Scorer(target, "fp32", 4, 1e-9).batch_size == 1
    sizes = watched(target, monkeypatch)
    with torch.no_grad():
        capped(X)
    assert sizes == [2, 2, 1]


def test_out_of_memory_halves_the_passes_and_loses_nothing(target, monkeypatch):
    scorer = Scorer(target, "fp32", 5, 1.0)
    with torch.no_grad():
        expected = scorer(X)
        sizes = watched(target, monkeypatch, limit=2)
        assert scorer(X).allclose(expected, atol=1e-6)
    assert sizes == [5, 2, 2, 1] and scorer.batch_size == 2


def test_a_measurement_that_does_not_fit_means_one_image_a_pass(target, monkeypatch):
    with torch.no_grad():
        expected = Scorer(target, "fp32", 5, 1.0)(X)
        watched(target, monkeypatch, limit=1)
        scorer = Scorer(target, "fp32", 5, 1.0)
        assert scorer.batch_size == 1 and scorer(X).allclose(expected, atol=1e-6)


def test_one_image_that_does_not_fit_names_the_remedy(target, monkeypatch):
    scorer = Scorer(target, "fp32", 4, 1.0)
    watched(target, monkeypatch, limit=0)
    with pytest.raises(ResourceError, match="one masked image of vit; use more memory, or fewer workers"):
        scorer(X)


def test_other_errors_pass(target, monkeypatch):
    scorer = Scorer(target, "fp32", 4, 1.0)

    def broken(self, x):
        raise RuntimeError("a kernel is missing")

    monkeypatch.setattr(Target, "forward", broken)
    with pytest.raises(RuntimeError, match="a kernel is missing"):
        scorer(X)


def test_weights_cast_for_a_pass_are_not_an_images_memory(target):
    """A wide layer over few features: its copy in bf16 is far larger than what one image leaves."""
    layer = torch.nn.Linear(1000, 1000).requires_grad_(False)

    def run(images: int) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            layer(torch.rand(images, 1000, requires_grad=True))

    assert activation_bytes(layer, run) < 20_000  # the copy has 2,000,000 bytes
    assert images_within(1.0, layer, run) == int(GIB / activation_bytes(layer, run))
    assert images_within(1e-9, layer, run) == 1
