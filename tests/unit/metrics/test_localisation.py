"""Hand-computed localisation and agreement with quantus."""

import warnings

import numpy as np
import pytest
import torch

from aha_core.errors import DataError
from aha_core.metrics import area_share, energy_in_mask, pointing_hit, rank_accuracy

MAP = torch.tensor([[3.0, -5.0, 1.0], [0.0, 2.0, -1.0], [4.0, 0.0, 0.0]])[None, None]
LEFT = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 0, 0]], dtype=torch.bool)[None, None]


def test_hand_computed():
    assert pointing_hit(MAP, LEFT, [0]).tolist() == [True]
    assert pointing_hit(MAP, ~LEFT, [0]).tolist() == [False]
    assert energy_in_mask(MAP, LEFT).item() == pytest.approx(7 / 10)  # 3 + 0 + 4 of 3 + 1 + 2 + 4
    assert rank_accuracy(MAP, LEFT, [0]).item() == pytest.approx(2 / 3)  # 4, 3, 2: two of three are left
    assert area_share(LEFT).item() == pytest.approx(1 / 3)


def test_maps_without_positive_values_count_as_uniform():
    for maps in (torch.zeros(1, 1, 3, 3), -torch.ones(1, 1, 3, 3)):
        assert energy_in_mask(maps, LEFT).item() == pytest.approx(1 / 3)


def test_ties_fall_at_random_with_the_seed():
    maps, seeds = torch.zeros(300, 1, 3, 3), range(300)
    masks = LEFT.expand(300, -1, -1, -1)
    hits = pointing_hit(maps, masks, seeds)
    assert hits.double().mean().item() == pytest.approx(1 / 3, abs=0.1)  # 3.7 standard errors
    assert hits.equal(pointing_hit(maps, masks, seeds))
    assert rank_accuracy(maps, masks, seeds).mean().item() == pytest.approx(1 / 3, abs=0.06)


def test_energy_of_huge_half_precision_maps_does_not_overflow():
    maps = torch.full((1, 1, 3, 3), 60000.0, dtype=torch.float16)
    assert energy_in_mask(maps, LEFT).item() == pytest.approx(1 / 3)


def test_empty_masks_are_refused():
    masks = torch.cat([LEFT, torch.zeros_like(LEFT)])
    with pytest.raises(DataError, match="mask of image 1"):
        energy_in_mask(MAP.expand(2, -1, -1, -1), masks)


def test_agrees_with_quantus():
    generator = torch.Generator().manual_seed(3)
    maps = torch.rand((6, 1, 8, 8), generator=generator, dtype=torch.float64)
    masks = torch.rand((6, 1, 8, 8), generator=generator) < 0.4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party import and parameterisation warnings
        import quantus

        settings = {"abs": False, "normalise": False, "disable_warnings": True}
        inputs = {
            "model": None,
            "x_batch": maps.numpy(),
            "y_batch": np.zeros(6, dtype=int),
            "a_batch": maps.numpy(),
            "s_batch": masks.numpy(),
            "channel_first": True,
        }
        pointing = quantus.PointingGame(**settings)(**inputs)
        mass = quantus.RelevanceMassAccuracy(**settings)(**inputs)
        rank = quantus.RelevanceRankAccuracy(**settings)(**inputs)
    seeds = range(6)
    assert pointing_hit(maps, masks, seeds).tolist() == [bool(hit) for hit in pointing]
    np.testing.assert_allclose(energy_in_mask(maps, masks), mass, atol=1e-6)
    np.testing.assert_allclose(rank_accuracy(maps, masks, seeds), rank, atol=1e-6)
    assert np.abs(energy_in_mask(maps, ~masks).numpy() - mass).max() > 0.05
