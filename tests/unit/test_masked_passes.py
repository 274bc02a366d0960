"""Micro-batches must not be seen: scores and gradients equal those of one large batch through plain autograd."""

import pytest
import torch

from aha_core.errors import ResourceError
from aha_core.masked_passes import MaskedPasses
from aha_core.objective import generator
from aha_core.perturbation import remove, upsample_masks
from aha_core.precision import autocast, has_bf16
from aha_core.targets import Target, create_model, plain_attention

SIZE, GRID = 32, 4
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def target():
    torch.manual_seed(0)
    model = create_model("vit_convstem_mini", 5, SIZE)
    return Target("vit_convstem_mini", model, SIZE, list("abcde"))


def inputs(images=3, masks=4):
    source = generator(1)
    x, reference = torch.rand(2, images, 3, SIZE, SIZE, generator=source)
    shares = torch.rand(masks, images, GRID * GRID, generator=source)
    return x, torch.arange(images) % 5, shares, reference


def plain(target, x, classes, masks, reference):
    pixels = upsample_masks(masks, GRID, (SIZE, SIZE))
    images = remove(x, pixels, reference).flatten(0, 1)
    probabilities = target(images).softmax(dim=1)
    return probabilities.gather(1, classes.repeat(len(masks))[:, None])[:, 0].unflatten(0, masks.shape[:2])


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 5, 8, 12, 100])
def test_scores_and_gradients_are_those_of_one_batch(target, micro_batch):
    x, classes, masks, reference = inputs()
    expected_masks, own_masks = masks.clone().requires_grad_(), masks.clone().requires_grad_()
    upstream = torch.rand(4, 3, generator=generator(2))
    passes = MaskedPasses(target, "fp32", 1.0)
    passes.micro_batch = micro_batch
    expected, own = plain(target, x, classes, expected_masks, reference), passes(x, classes, own_masks, reference)
    (expected * upstream).sum().backward()
    (own * upstream).sum().backward()
    assert torch.allclose(own, expected, atol=1e-6)
    assert torch.allclose(own_masks.grad, expected_masks.grad, atol=1e-7)
    assert own_masks.grad.abs().max() > 1e-5
    assert passes.images == 12


def test_micro_batch_follows_from_the_memory_cap(target):
    x, classes, masks, reference = inputs()
    sizes = []
    for gib in (0.5, 1.0, 1e-9):
        passes = MaskedPasses(target, "fp32", gib)
        passes(x, classes, masks, reference)
        sizes.append(passes.micro_batch)
    assert sizes[2] == 1
    assert sizes[1] == pytest.approx(2 * sizes[0], abs=1)
    per_image = 2**30 / sizes[1]
    tokens_and_pixels = 4 * (
        3 * 3 * SIZE * SIZE
    )  # at least the masked image, its normalised copy and its gradient path
    assert tokens_and_pixels < per_image < 100 * tokens_and_pixels


class Hungry(Target):
    """Runs out of memory above a number of images."""

    def __init__(self, limit, error):
        torch.nn.Module.__init__(self)
        self.limit, self.error, self.seen, self.name = limit, error, [], "hungry"

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.limit:
            raise self.error
        return torch.stack([x.mean(dim=(1, 2, 3)), x.std(dim=(1, 2, 3))], dim=1)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_halves_the_micro_batch_and_loses_nothing(error):
    x, _, masks, reference = inputs()
    classes = torch.zeros(3, dtype=torch.long)
    model = Hungry(3, error)
    passes = MaskedPasses(model, "fp32", 1.0)
    own = passes(x, classes, masks.requires_grad_(), reference)
    assert passes.micro_batch <= 3
    assert torch.allclose(own, plain(Hungry(99, error), x, classes, masks, reference), atol=1e-6)
    own.sum().backward()
    assert masks.grad.isfinite().all()


def test_out_of_memory_with_one_image_names_the_remedy_and_other_errors_pass():
    x, _, masks, reference = inputs()
    classes = torch.zeros(3, dtype=torch.long)
    for error, kind in ((OUT_OF_MEMORY[0], ResourceError), (RuntimeError("shapes differ"), RuntimeError)):
        passes = MaskedPasses(Hungry(0, error), "fp32", 1.0)
        passes.micro_batch = 4
        with pytest.raises(kind, match="one masked image of hungry|shapes differ"):
            passes(x, classes, masks, reference)


def test_auto_precision_is_bf16_exactly_where_it_is_native():
    with autocast(CPU, "auto"):
        assert torch.is_autocast_enabled("cpu") == has_bf16(CPU)
    with autocast(CPU, "fp32"):
        assert not torch.is_autocast_enabled("cpu")


class Watched(Target):
    """Notes whether the target's attention was fused in each pass."""

    def __init__(self, target):
        torch.nn.Module.__init__(self)
        self.inner, self.fused = target, []

    def forward(self, x):
        self.fused.append(all(block.attn.fused_attn for block in self.inner.model.blocks))
        return self.inner(x)


@pytest.mark.parametrize(
    ("precision", "gradient", "fused"), [("fp32", True, True), ("bf16", True, False), ("bf16", False, True)]
)
def test_attention_is_plain_for_bf16_gradients_alone(target, precision, gradient, fused):
    watched = Watched(target)
    MaskedPasses(watched, precision, 1.0).score_and_gradient(inputs()[0], torch.zeros(3, dtype=torch.long), gradient)
    assert watched.fused == [fused]


def test_plain_attention_is_restored_after_an_error(target):
    with pytest.raises(KeyError), plain_attention(target, active=True):
        assert not any(block.attn.fused_attn for block in target.model.blocks)
        raise KeyError
    assert all(block.attn.fused_attn for block in target.model.blocks)


def test_bf16_gradients_point_the_same_way(target):
    x, classes, masks, reference = inputs()
    gradients = []
    for precision in ("fp32", "bf16"):
        leaf = masks.clone().requires_grad_()
        MaskedPasses(target, precision, 1.0)(x, classes, leaf, reference).sum().backward()
        gradients.append(leaf.grad.flatten())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98
