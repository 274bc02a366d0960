"""Ranking whole cells and scattered pixels: against loops, and their limits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aha_core.order import rank_cells, removal_order, scatter


def by_hand(one: torch.Tensor, cell: int, shift: int) -> list[int]:
    """Flat places, most important first: cells by mean, then pixels; no ties."""
    height, width = one.shape
    cells: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y in range(height):
        for x in range(width):
            cells.setdefault(((y + shift) // cell, (x + shift) // cell), []).append((y, x))
    ordered = sorted(cells.values(), key=lambda own: -sum(float(one[place]) for place in own) / len(own))
    return [y * width + x for own in ordered for y, x in sorted(own, key=lambda place: -float(one[place]))]


@pytest.mark.parametrize(
    ("size", "cell", "shift"), [((6, 6), 2, 0), ((6, 6), 2, 1), ((5, 7), 3, 1), ((4, 4), 4, 0), ((4, 6), 1, 0)]
)
def test_cells_by_their_mean_then_pixels(size, cell, shift):
    maps = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(3))
    before = maps.clone()
    orders = removal_order(rank_cells(maps, cell, [0, 1], shift), [0, 1])
    assert orders.tolist() == [by_hand(one[0], cell, shift) for one in maps]
    assert maps.equal(before)


@given(st.floats(0.01, 100), st.floats(-100, 100))
def test_only_the_order_of_means_and_pixels_counts(scale, offset):
    maps = torch.arange(16.0).reshape(1, 1, 4, 4) ** 2
    moved = (scale * maps.double() + offset).to(torch.float64)
    assert rank_cells(moved, 2, [0]).equal(rank_cells(maps, 2, [0]))


def test_tied_cells_stay_whole_and_fall_by_the_seed():
    maps = torch.zeros(3, 1, 6, 6)
    cells = (torch.arange(6)[:, None] // 2 * 3 + torch.arange(6) // 2).flatten()
    orders = removal_order(rank_cells(maps, 2, [5, 5, 6]), [0, 1, 2])
    of_cells = cells[orders].view(3, 9, 4)
    assert (of_cells == of_cells[..., :1]).all()
    assert of_cells[0, :, 0].equal(of_cells[1, :, 0]) and not of_cells[0, :, 0].equal(of_cells[2, :, 0])
    assert not orders[0].equal(orders[1])  # equal pixels of a cell fall by the order's own seed


@pytest.mark.parametrize("size", [(6, 6), (5, 7)])
def test_scattered_ranks_by_hand(size):
    maps = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(3))
    before, pixels = maps.clone(), size[0] * size[1]
    values = scatter(maps, 0.4, [0, 1])
    for one, found in zip(maps[:, 0], values[:, 0], strict=True):
        for y in range(size[0]):
            for x in range(size[1]):
                rank = int((one < one[y, x]).sum()) / pixels
                dither = [[-3, 1], [3, -1]][y % 2][x % 2] / 8
                assert float(found[y, x]) == pytest.approx(rank + 0.4 * dither, abs=1e-12)
    assert maps.equal(before)


@given(st.floats(0.01, 100), st.floats(-100, 100), st.floats(0, 6))
def test_scattering_counts_the_order_alone_and_knows_its_ends(scale, offset, strength):
    maps = torch.arange(16.0).reshape(1, 1, 4, 4) ** 2
    moved = scale * maps.double() + offset
    assert scatter(moved, strength, [0]).equal(scatter(maps, strength, [0]))
    assert removal_order(scatter(maps, 0, [0]), [0]).equal(removal_order(maps, [0]))
    first = removal_order(scatter(maps, 4, [0]), [0])[0, :4]  # every pixel of the largest place of D, and only those
    assert sorted(first.tolist()) == [4, 6, 12, 14] and first.tolist() == [14, 12, 6, 4]


def test_equal_pixels_are_scattered_by_their_seed():
    maps = torch.zeros(3, 1, 4, 4)
    values = scatter(maps, 0.4, [5, 5, 6])
    assert values[0].equal(values[1]) and not values[0].equal(values[2])
