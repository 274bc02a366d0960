"""The shell around a checked method."""

import pytest
import torch

from aha_core.checks import Finite, _grid
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


def test_grid_rows_hold_energy_and_hit_of_every_cell():
    """Cells of brightness .2 .. .8: the brightest is pointed at whatever the class, and has the most energy."""
    images = torch.tensor([0.2, 0.4, 0.6, 0.8]).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    rows = list(_grid(Red(), images, torch.zeros(4, dtype=torch.long) + torch.arange(4), torch.ones(4), 2, 1, 3, 0))
    energy = {row["detail"]: row["value"] for row in rows if row["check"] == "grid_2x2"}
    hits = {row["detail"]: row["value"] for row in rows if row["check"] == "grid_2x2_hit"}
    assert hits == {"0": 0, "1": 0, "2": 0, "3": 1}
    for label, level in enumerate((0.2, 0.4, 0.6, 0.8)):  # the map is the red channel plus the class
        assert energy[str(label)] == pytest.approx((level + label) / (2 + 4 * label), abs=1e-4)
    assert {row["image"] for row in rows} == {0} and len(rows) == 8
