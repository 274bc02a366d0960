"""Our curves against torchcam, captum and quantus; negated maps must disagree."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from aha_core.metrics import curve_fractions, deletion_insertion, removal_order


class Net(nn.Module):
    """A small random convolutional classifier with smooth, unsaturated probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).tanh().flatten(1))


@pytest.fixture(scope="module")
def case():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = Net().double().eval().requires_grad_(False)
        net.head.weight.mul_(3)
        images = torch.rand(3, 3, 6, 6, dtype=torch.float64)
        images[:, :, 0, 0] = 0  # quantus' "black" is the smallest value of the image
        classes = net(images).argmax(dim=1)
        maps = images.new_zeros(3, 1, 6, 6)
        # Exact occlusion of each pixel: strong enough that the negated map differs clearly.
        for i in range(36):
            occluded = images.clone()
            occluded.flatten(2)[:, :, i] = 0
            drop = net(images).softmax(1) - net(occluded).softmax(1)
            maps.flatten(2)[:, 0, i] = drop.gather(1, classes[:, None]).squeeze(1)
    return net, images, classes, maps


def our_curves(case, sign: int = 1, counts: list[int] | None = None):
    net, images, classes, maps = case
    order = removal_order(sign * maps, [0, 1, 2])
    counts_ = torch.tensor(counts) if counts else curve_fractions(13, 36)[0]
    return deletion_insertion(
        lambda x: net(x).softmax(1), images, order, classes, torch.zeros_like(images), counts_, batch_size=16
    )


def test_agrees_with_torchcam(case):
    from torchcam.metrics import DeletionInsertionMetric

    net, images, _, maps = case

    class Fixed:
        """The maps of this test in the shape of a torchcam extractor."""

        model = net

        def __init__(self, sign: int) -> None:
            self.sign = sign

        def __call__(self, *_args, **_kwargs):
            return [self.sign * maps[:, 0].clone()]

        def fuse_cams(self, cams):
            return cams[0]

        def _hooks_off(self):
            return torch.no_grad()

    def theirs(sign: int) -> dict[str, float]:
        metric = DeletionInsertionMetric(Fixed(sign), lambda logits: logits.softmax(dim=1), steps=12)
        metric.update(images)
        return metric.summary()

    ours = our_curves(case)
    assert ours.deletion_auc.mean().item() == pytest.approx(theirs(1)["deletion_auc"], abs=1e-6)
    assert ours.insertion_auc.mean().item() == pytest.approx(theirs(1)["insertion_auc"], abs=1e-6)
    assert abs(ours.deletion_auc.mean().item() - theirs(-1)["deletion_auc"]) > 0.05


def test_agrees_with_captum_feature_ablation(case):
    """One removed group is one ablated feature: f(x) - f(x without the c most important pixels)."""
    from captum.attr import FeatureAblation

    net, images, classes, maps = case

    def theirs(sign: int, count: int) -> Tensor:
        order = removal_order(sign * maps, [0, 1, 2])
        groups = torch.zeros(3, 36, dtype=torch.long).scatter(1, order[:, :count], 1).view(3, 1, 6, 6)
        ablation = FeatureAblation(lambda x: net(x).softmax(1))
        effect = ablation.attribute(images, baselines=0, target=classes, feature_mask=groups)
        most_important = order[:, :1, None].transpose(1, 2).expand(3, 3, 1)
        full = net(images).softmax(1).gather(1, classes[:, None]).squeeze(1)
        return full - effect.flatten(2).gather(2, most_important)[:, 0, 0]

    curves = our_curves(case)
    for point, count in enumerate(curve_fractions(13, 36)[0].tolist()[1:-1], start=1):
        torch.testing.assert_close(curves.deletion[:, point], theirs(1, count), atol=1e-6, rtol=0)
    assert (curves.deletion[:, 4] - theirs(-1, 12)).abs().max() > 0.05


def test_agrees_with_quantus_pixel_flipping(case):
    """Quantus flips channel values: three per pixel with a map repeated over channels, every third point is ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party import and parameterisation warnings
        import quantus

        net, images, classes, maps = case
        # Distinct values of both signs (quantus refuses others) keep the three channels of a pixel together.
        ranked = removal_order(maps, [0, 1, 2]).argsort(dim=1)
        importance = (18 - ranked).double().view(3, 1, 6, 6).expand(-1, 3, -1, -1)
        pixel_first = importance + torch.tensor([0.2, 0.1, 0.0]).view(1, 3, 1, 1)

        def theirs(sign: int) -> Tensor:
            metric = quantus.PixelFlipping(
                features_in_step=1, normalise=False, perturb_baseline="black", disable_warnings=True
            )
            scores = metric(
                model=net.float(),
                x_batch=images.float().numpy(),
                y_batch=classes.numpy(),
                a_batch=(sign * pixel_first).float().numpy(),
                softmax=True,
            )
            net.double()
            return torch.tensor(scores, dtype=torch.float64)[:, 2::3]

        flipped, reversed_ = theirs(1), theirs(-1)
    ours = our_curves(case, counts=list(range(37))).deletion
    torch.testing.assert_close(ours[:, 1:], flipped, atol=1e-6, rtol=0)
    assert (ours[:, 1:] - reversed_).abs().max() > 0.05
