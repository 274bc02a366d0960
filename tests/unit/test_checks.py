"""The shell around a checked method."""

import pytest
import torch

from aha_core.checks import Finite, _grid
from aha_core.errors import AttributionError
from aha_core.targets import Target, create_model


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


def test_grid_rows_hold_energy_rank_and_hit_of_every_cell(monkeypatch):
    """Cells of brightness .2 .. .8: the brightest is on top whatever the class, and has the most energy.

    A fifth image, which the target does not recognise at that size, does not play.
    """
    target = Target("mini", create_model("vit_convstem_mini", 5, 32), 32, list("abcde"))
    sure = lambda x: torch.where(x.amax(dim=(1, 2, 3)) < 0.9, 0.6, 0.4)[:, None].expand(-1, 5)  # noqa: E731
    monkeypatch.setattr(target, "probabilities", sure)
    images = torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]).view(5, 1, 1, 1).expand(5, 3, 32, 32)
    rows = list(_grid(Red(), target, images, torch.arange(5), 2, 9, 3, 0))
    energy = {row["detail"]: row["value"] for row in rows if row["check"] == "grid_2x2"}
    for order in ("rank", "hit"):
        found = {row["detail"]: row["value"] for row in rows if row["check"] == f"grid_2x2_{order}"}
        assert found == {"0": 0, "1": 0, "2": 0, "3": 1}
    for label, level in enumerate((0.2, 0.4, 0.6, 0.8)):  # the map is the red channel plus the class
        assert energy[str(label)] == pytest.approx((level + label) / (2 + 4 * label), abs=1e-4)
    assert {row["image"] for row in rows} == {0} and len(rows) == 12
