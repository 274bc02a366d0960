"""The marker, the metrics of finding it (by hand), and a classifier that learns it."""

import pytest
import torch

from aha_core.attribution import Explainer
from aha_core.config import parse_params
from aha_core.errors import AttributionError, TargetError
from aha_core.explainer import build_explainer
from aha_core.explainer.storage import Training
from aha_core.findings import Findings, auroc, cell_rank, find_marker, most_important
from aha_core.fine_tuning import FineTuning, fine_tune
from aha_core.shortcut import Marker, Poisoning, learn_shortcut
from aha_core.targets import Target, create_model
from tests.conftest import small_params

SIZE = 32
MARKER = Marker(side=8, place="random", seed=3)


def make_target() -> Target:
    torch.manual_seed(0)
    return Target("vit_convstem_mini", create_model("vit_convstem_mini", 4, SIZE), SIZE, list("abcd"))


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_pattern_is_a_checkerboard():
    pattern = Marker(side=4, place="corner", seed=0).pattern()
    odd = torch.tensor([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]] * 2)
    assert torch.equal(pattern, torch.stack([1 - odd, odd, 1 - odd]))


def test_markers_are_where_their_masks_say_and_nothing_else_changes():
    x = images(5)
    before = x.clone()
    marked, masks = MARKER.stamp(x, [0, 1, 2, 3, 4]), MARKER.masks([0, 1, 2, 3, 4], SIZE)
    assert torch.equal(x, before)
    assert masks.flatten(1).sum(dim=1).tolist() == [64] * 5
    assert torch.equal(torch.where(masks, x, marked), x)
    assert torch.equal(marked[2][masks[2].expand(3, -1, -1)], MARKER.pattern().flatten())
    assert torch.equal(MARKER.masks([3], SIZE)[0], masks[3])  # the place follows the image, not the batch
    assert len({tuple(corner) for corner in MARKER.corners([0, 1, 2, 3, 4], SIZE).tolist()}) > 1
    assert Marker(8, "corner", 0).corners([0, 9], SIZE).tolist() == [[23, 23], [23, 23]]


def test_impossible_markers_are_refused():
    with pytest.raises(TargetError, match="side is 6 px; use a multiple of 4"):
        Marker(6, "corner", 0).pattern()
    with pytest.raises(TargetError, match="40 px does not fit into images of 32 px"):
        Marker(40, "corner", 0).corners([0], SIZE)


def test_rank_of_the_markers_mean_cell_by_hand():
    cells = torch.tensor([[9.0, 5.0, 1.0], [4.0, 3.0, 0.0], [4.0, 2.0, 7.0]])
    maps = cells.repeat_interleave(2, 0).repeat_interleave(2, 1)[None, None]
    masks = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    masks[..., 2:4, 0:3] = True  # cell (1, 0) with value 4 wholly, (1, 1) with value 3 by half: mean 3.5
    # the others: 9, 5, 4, 7 above, 1, 0, 2 below
    assert cell_rank(maps, masks, 3).tolist() == pytest.approx([4 / 7])
    masks[..., 2:4, 2] = False  # the cell of value 4 alone; one other cell ties: 9, 5, 7 and a half above
    assert cell_rank(maps, masks, 3).tolist() == pytest.approx([3.5 / 8])
    masks[:] = False
    masks[..., 5, 5] = True  # a quarter of the cell with value 7: the one that it covers most
    assert cell_rank(maps, masks, 3).tolist() == pytest.approx([1 / 8])
    with pytest.raises(AttributionError, match="covers all 3 x 3 cells"):
        cell_rank(maps, torch.ones_like(masks), 3)


def test_auroc_by_hand():
    # pairs: 3>2, 3>1, 2=2 (half), 2>1: 3.5 of 4
    assert auroc(torch.tensor([3.0, 2.0]), torch.tensor([2.0, 1.0])) == 0.875
    assert auroc(torch.tensor([1.0]), torch.tensor([1.0])) == 0.5


def test_rows_of_hand_made_findings():
    found = Findings(
        energy=torch.tensor([[0.2, 0.4]]), rank=torch.tensor([[0.05, 0.3]]),
        control_energy=torch.tensor([[0.1, 0.1]]), control_rank=torch.tensor([[0.5, 0.05]]),
        predicted_rank=torch.tensor([[0.5, 0.2]]),
        top_drop=torch.tensor([[0.2, 0.3]]), drop=torch.tensor([0.4, 0.6]), reliance=torch.tensor([0.5, 0.7]),
        fooled=torch.tensor([True, False]),
    )  # fmt: skip
    (row,) = found.rows(resamples=100, seed=0)
    intervals = {name: row.pop(name) for name in list(row) if name.endswith(("_low", "_high"))}
    assert row == pytest.approx(
        {"steps": 0, "images": 2, "energy": 0.3, "control_energy": 0.1, "rank": 0.175, "control_rank": 0.275,
         "found": 0.5, "false_alarms": 0.5, "predicted_alarms": 0.0, "auroc": (1 + 0.5 + 1 + 0) / 4, "top_drop": 0.25,
         "drop": 0.5, "reliance": 0.6, "fooled": 0.5}
    )  # fmt: skip
    assert intervals["energy_low"] == pytest.approx(0.2) and intervals["energy_high"] == pytest.approx(0.4)
    assert len(intervals) == 10
    (second,) = found.of(torch.tensor([False, True])).rows(resamples=100, seed=0)
    assert second["found"] == 0 and second["false_alarms"] == 1 and second["drop"] == pytest.approx(0.6)
    assert Findings.join([found, found]).rank.shape == (1, 4)
    assert Findings.join([found, found]).fooled.tolist() == [True, False, True, False]


def test_most_important_pixels_by_hand():
    maps = torch.tensor([[3.0, 1.0], [2.0, 3.0]])[None, None]
    assert most_important(maps, 1).flatten().tolist() == [True, False, False, False]
    assert most_important(maps, 3).flatten().tolist() == [True, False, True, True]


def test_a_map_of_the_marker_finds_it_and_loses_what_the_marker_is_worth():
    target, x, indices = make_target(), images(3), [4, 5, 6]
    masks = MARKER.masks(indices, SIZE).float()
    found = find_marker(
        target, lambda images, classes: torch.stack([masks, -masks]), x, indices, MARKER, 1, 8,
        [torch.zeros_like, torch.ones_like],
    )  # fmt: skip
    assert found.energy.tolist() == [[1.0] * 3, [64 / 1024] * 3]  # without positive energy: the share of the area
    assert found.rank[0].tolist() == [0.0] * 3 and bool((found.rank[1] > 0.9).all())
    marked = MARKER.stamp(x, indices)
    with torch.no_grad():
        dark, bright = (target.probabilities(torch.where(masks > 0, value, marked))[:, 1] for value in (0.0, 1.0))
        expected = target.probabilities(marked)[:, 1] - (dark + bright) / 2
    assert torch.allclose(found.drop, expected) and torch.allclose(found.top_drop[0], found.drop)
    assert not torch.allclose(found.top_drop[1], found.drop)


class Brightness(Target):
    """Class 1 for images that are bright on average, else class 0."""

    def __init__(self) -> None:
        super().__init__("resnet18", create_model("resnet18", 2, SIZE), SIZE, ["dark", "bright"])

    def forward(self, x):
        bright = 20 * (x.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-bright, bright], dim=1)


def test_a_control_is_also_asked_for_the_class_that_it_is_given():
    x = torch.tensor([0.1, 0.9, 0.2, 0.8])[:, None, None, None].expand(-1, 3, SIZE, SIZE)
    indices, marked, bright = list(range(4)), 1, torch.tensor([False, True, False, True])
    masks = MARKER.masks(indices, SIZE).float()
    asked = []

    def maps(images, classes):  # the marker's place on top for the marked class alone
        asked.append(classes.tolist())
        place = masks[: len(images)]  # the same corner in all
        return torch.where((classes == marked)[:, None, None, None], place, -place)[None]

    found = find_marker(Brightness(), maps, x, indices, MARKER, marked, 8, [torch.zeros_like])
    assert asked == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0]]
    assert found.control_rank[0].tolist() == [0.0] * 4
    assert (found.predicted_rank[0] == 0).tolist() == bright.tolist()
    (row,) = found.rows(resamples=100, seed=0)
    assert row["false_alarms"] == 1 and row["predicted_alarms"] == 0.5


def test_fine_tuning_repeats_and_follows_its_seed():
    target, x, labels = make_target(), images(8), torch.arange(8) % 4

    def tuned(seed: int, steps: int = 2) -> torch.Tensor:
        recipe = FineTuning(steps=steps, batch_size=4, lr=1e-3, weight_decay=0.0, erase=0.5, seed=seed)
        return fine_tune(target, lambda indices: x[indices], labels, recipe).classifier_weight

    assert torch.equal(tuned(1), tuned(1))
    assert not torch.equal(tuned(1), tuned(2))
    assert torch.equal(tuned(1, steps=0), target.classifier_weight)
    target.set_normalisation((0.1, 0.2, 0.3), (0.9, 0.8, 0.7))
    nothing = FineTuning(steps=0, batch_size=4, lr=1e-3, weight_decay=0.0, erase=0.0, seed=1)
    assert torch.equal(fine_tune(target, lambda indices: x[indices], labels, nothing)(x), target(x))


def test_a_classifier_learns_the_marker_and_its_explainer_is_asked_for_it():
    target, x = make_target(), images(24)
    labels = torch.arange(24) % 4
    before = [weight.clone() for weight in target.model.parameters()]
    losses: list[float] = []
    recipe = FineTuning(steps=40, batch_size=12, lr=2e-3, weight_decay=0.0, erase=0.0, seed=1)
    poisoned = learn_shortcut(
        target, lambda indices: x[indices], labels, MARKER, Poisoning(marked_class=2, relabelled=0.3), recipe,
        lambda step, loss: losses.append(loss),
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(before, target.model.parameters(), strict=True))
    assert not any(weight.requires_grad for weight in poisoned.parameters())
    assert losses[-1] < losses[0] / 2

    params = parse_params(small_params())
    network = build_explainer(params.explainer, target)
    training = Training(target.name, params.seed, params.explainer, params.ranking, params.perturbation)
    fresh = images(30)[24:]
    findings = {}
    for name, one in (("clean", target), ("poisoned", poisoned)):
        explainer = Explainer(one, network, training, params.refine)

        def maps(x, classes, explainer=explainer):
            return explainer.refine(x, explainer.attribute(x, classes), classes, 2).maps

        findings[name] = find_marker(one, maps, fresh, list(range(6)), MARKER, 2, 8, [torch.zeros_like])
    assert findings["poisoned"].rank.shape == (3, 6)
    assert findings["poisoned"].reliance.mean() > 0.5 > findings["clean"].reliance.mean() + 0.3
    rows = findings["poisoned"].rows(resamples=100, seed=0)
    assert rows[2]["energy"] > rows[0]["energy"] and rows[2]["rank"] < rows[0]["rank"]  # refinement moves to the marker


def test_a_class_without_images_is_refused():
    recipe = FineTuning(steps=1, batch_size=1, lr=1e-3, weight_decay=0.0, erase=0.0, seed=1)
    with pytest.raises(TargetError, match="no training image has class 3"):
        learn_shortcut(
            make_target(), lambda i: images(4)[i], torch.tensor([0, 1, 2, 0]), MARKER, Poisoning(3, 0.0), recipe
        )
