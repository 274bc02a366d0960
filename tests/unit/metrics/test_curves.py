"""Hand-computed curves and the ranking contract."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aha_core.errors import AttributionError
from aha_core.metrics import auc, curve_fractions, deletion_insertion, endpoint_scores, removal_order


def total(x: Tensor) -> Tensor:
    """A one-class score: the sum of all values."""
    return x.flatten(1).sum(dim=1, keepdim=True)


def run(values: list[list[float]], counts: list[int], reference: float = 0.0):
    image = torch.tensor(values, dtype=torch.float64)[None, None]
    order = removal_order(image, [0])
    return deletion_insertion(
        total, image, order, torch.tensor([0]), torch.full_like(image, reference), torch.tensor(counts), batch_size=2
    )


def test_golden_two_by_two():
    curves = run([[0.4, 0.3], [0.2, 0.1]], counts=[0, 2, 4])
    torch.testing.assert_close(curves.deletion, torch.tensor([[1.0, 0.3, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(curves.insertion, torch.tensor([[0.0, 0.7, 1.0]], dtype=torch.float64))
    assert curves.deletion_auc.item() == pytest.approx(0.4, abs=1e-12)
    assert curves.insertion_auc.item() == pytest.approx(0.6, abs=1e-12)
    assert curves.srg.item() == pytest.approx(0.2, abs=1e-12)


def test_golden_five_pixels_with_uneven_steps():
    curves = run([[0.3, 0.25, 0.2, 0.15, 0.1]], counts=[0, 2, 4, 5])
    torch.testing.assert_close(curves.fractions, torch.tensor([0.0, 0.4, 0.8, 1.0], dtype=torch.float64))
    torch.testing.assert_close(curves.deletion, torch.tensor([[1.0, 0.45, 0.1, 0.0]], dtype=torch.float64))
    assert curves.deletion_auc.item() == pytest.approx(0.41, abs=1e-12)
    assert curves.insertion_auc.item() == pytest.approx(0.59, abs=1e-12)


def test_two_points_need_only_the_end_points():
    curves = run([[0.4, 0.3], [0.2, 0.1]], counts=[0, 4], reference=0.5)
    torch.testing.assert_close(curves.deletion, torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    assert curves.srg.item() == pytest.approx(0.0, abs=1e-12)


def test_fractions_are_true_and_include_both_ends():
    counts, fractions = curve_fractions(points=4, pixels=5)
    assert counts.tolist() == [0, 2, 3, 5]
    assert fractions.tolist() == [0.0, 0.4, 0.6, 1.0]
    counts, _ = curve_fractions(points=21, pixels=224 * 224)
    assert counts[0] == 0 and counts[-1] == 50176 and counts[1] == round(0.05 * 50176)
    with pytest.raises(ValueError, match="both end points"):
        curve_fractions(points=1, pixels=4)


def test_auc_uses_the_given_fractions():
    curve = torch.tensor([[1.0, 0.5, 0.0]])
    assert auc(curve, torch.tensor([0.0, 0.9, 1.0])).item() == pytest.approx(0.9 * 0.75 + 0.1 * 0.25)


class TestRemovalOrder:
    def test_descends(self):
        maps = torch.tensor([[0.1, -3e38], [65504.0, 0.2]])[None, None]
        assert removal_order(maps, [0]).tolist() == [[2, 3, 0, 1]]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_any_floating_type(self, dtype: torch.dtype):
        maps = torch.tensor([0.5, -2.0, 4.0, 1.0], dtype=dtype).view(1, 1, 2, 2)
        assert removal_order(maps, [3]).tolist() == [[2, 3, 0, 1]]

    def test_constant_map_is_a_seeded_permutation(self):
        maps = torch.zeros(2, 1, 8, 8)
        order = removal_order(maps, [1, 2])
        assert order.sort(dim=1).values.equal(torch.arange(64).expand(2, 64))
        assert not order[0].equal(order[1])
        assert not order[0].equal(torch.arange(64))

    def test_does_not_depend_on_the_batch(self):
        generator = torch.Generator().manual_seed(0)
        maps = torch.randint(0, 3, (5, 1, 6, 7), generator=generator).float()
        together = removal_order(maps, [10, 11, 12, 13, 14])
        alone = torch.cat([removal_order(maps[i : i + 1], [10 + i]) for i in range(5)])
        assert together.equal(alone)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_refuses_values_that_are_not_finite(self, value: float):
        maps = torch.zeros(2, 1, 2, 2)
        maps[1, 0, 0, 1] = value
        with pytest.raises(AttributionError, match=r"chefer: 1 of 4 values of map 1"):
            removal_order(maps, [0, 0], method="chefer")

    @pytest.mark.usefixtures("unchecked_types")
    @pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 4, 4), (3, 1, 4, 4)])
    def test_refuses_wrong_shapes(self, shape: tuple[int, ...]):
        with pytest.raises(AttributionError, match="grad_cam: expected maps of shape"):
            removal_order(torch.zeros(shape), [0, 1], method="grad_cam")


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    seed=st.integers(0, 2**16),
    levels=st.integers(1, 5),
)
def test_insertion_is_deletion_of_the_reversed_order(height, width, cuts, seed, levels):
    """With one reference, for any ranking, any counts and a score that is not additive."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((2, 3, height, width), generator=generator, dtype=torch.float64)
    reference = torch.rand((2, 3, height, width), generator=generator, dtype=torch.float64)
    weight = torch.randn((3 * height * width, 4), generator=generator, dtype=torch.float64)
    maps = torch.randint(0, levels, (2, 1, height, width), generator=generator).double()
    order = removal_order(maps, [seed, seed + 1])
    pixels = height * width
    counts = torch.tensor([0, *sorted(round(cut * pixels) for cut in cuts), pixels])

    def score(x: Tensor) -> Tensor:
        return (x.flatten(1) @ weight).softmax(dim=1)

    classes = torch.tensor([1, 3])
    forward = deletion_insertion(score, images, order, classes, reference, counts, batch_size=3)
    backward = deletion_insertion(score, images, order.flip(1), classes, reference, pixels - counts.flip(0), 5)
    torch.testing.assert_close(forward.insertion, backward.deletion.flip(1))
    torch.testing.assert_close(forward.insertion_auc, backward.deletion_auc)


class TestDeletionInsertion:
    def setup_method(self):
        generator = torch.Generator().manual_seed(1)
        self.images = torch.rand((3, 3, 4, 4), generator=generator)
        self.reference = torch.rand((3, 3, 4, 4), generator=generator)
        self.weight = torch.randn((48, 5), generator=generator)
        self.order = removal_order(torch.rand((3, 1, 4, 4), generator=generator), [0, 1, 2])
        self.classes = torch.tensor([4, 0, 2])
        self.counts, _ = curve_fractions(6, 16)
        self.sizes: list[int] = []

    def score(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return (x.flatten(1) @ self.weight).softmax(dim=1)

    def curves(self, batch_size: int, **kwargs):
        return deletion_insertion(
            self.score, self.images, self.order, self.classes, self.reference, self.counts, batch_size, **kwargs
        )

    def test_matches_a_plain_loop(self):
        curves = self.curves(batch_size=7)
        for b in range(3):
            for j, count in enumerate(self.counts.tolist()):
                removed = torch.zeros(16, dtype=torch.bool)
                removed[self.order[b, :count]] = True
                removed = removed.view(4, 4)
                deleted = torch.where(removed, self.reference[b], self.images[b])
                inserted = torch.where(removed, self.images[b], self.reference[b])
                for image, curve in ((deleted, curves.deletion), (inserted, curves.insertion)):
                    torch.testing.assert_close(curve[b, j], self.score(image[None])[0, self.classes[b]])

    def test_batches_are_cut_across_images_and_points(self):
        self.curves(batch_size=5)
        assert max(self.sizes) == 5
        # 2 end points per image; 4 inner points in 2 directions per image, full batches but the last.
        assert self.sizes == [3, 3, 5, 5, 5, 5, 4]
        first = self.curves(batch_size=5)
        torch.testing.assert_close(first.deletion, self.curves(batch_size=1).deletion)

    def test_end_points_can_be_shared(self):
        ends = endpoint_scores(self.score, self.images, self.classes, self.reference, batch_size=2)
        plain = self.curves(batch_size=4)
        self.sizes.clear()
        shared = self.curves(batch_size=4, endpoints=ends)
        assert sum(self.sizes) == 24
        torch.testing.assert_close(shared.deletion, plain.deletion)
        torch.testing.assert_close(shared.insertion, plain.insertion)

    def test_inputs_are_not_changed_and_need_no_gradient(self):
        copies = [one.clone() for one in (self.images, self.reference, self.order, self.counts)]
        self.images.requires_grad_(True)
        curves = self.curves(batch_size=4)
        assert not curves.deletion.requires_grad
        for copy, one in zip(copies, (self.images, self.reference, self.order, self.counts), strict=True):
            assert copy.equal(one)

    def test_reference_is_broadcast(self):
        black = torch.zeros(1, 3, 1, 1)
        self.reference = black
        narrow = self.curves(batch_size=4)
        self.reference = torch.zeros_like(self.images)
        torch.testing.assert_close(narrow.deletion, self.curves(batch_size=4).deletion)

    def test_half_precision_scores_become_float32(self):
        curves = deletion_insertion(
            lambda x: self.score(x).bfloat16(), self.images, self.order, self.classes, self.reference, self.counts, 4
        )
        assert curves.deletion.dtype == torch.float32

    @pytest.mark.parametrize("counts", [[1, 16], [0, 15], [0, 9, 8, 16]])
    def test_refuses_counts_without_both_ends(self, counts: list[int]):
        self.counts = torch.tensor(counts)
        with pytest.raises(ValueError, match="counts must rise from 0 to 16"):
            self.curves(batch_size=4)

    def test_refuses_an_order_of_another_size(self):
        self.order = self.order[:, :9]
        with pytest.raises(ValueError, match="do not fit"):
            self.curves(batch_size=4)
