"""The shell around a checked method."""

import pytest
import torch

from aha_core.checks import Finite
from aha_core.errors import AttributionError


class Red:
    """The red channel plus the class; remembers how many images it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def attribute(self, x, target=None):
        self.asked.append(len(x))
        return x[:, :1] + (0 if target is None else target.view(-1, 1, 1, 1))


def test_maps_do_not_depend_on_the_batches():
    x, classes = torch.rand(5, 3, 4, 4), torch.arange(5)
    red = Red()
    maps = Finite(red, batch_size=2, device="cpu").attribute(x, classes)
    assert red.asked == [2, 2, 1] and maps.equal(Red().attribute(x, classes))
    assert Finite(red, batch_size=2, device="cpu").attribute(x).equal(x[:, :1])


def test_a_map_that_is_not_finite_is_refused():
    with pytest.raises(AttributionError, match="not finite"):
        Finite(Red(), batch_size=2, device="cpu").attribute(torch.full((3, 3, 4, 4), torch.inf))
