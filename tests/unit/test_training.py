"""The loop: it learns, resumes exactly, and reports what it should."""

import pytest
import torch

from aha_core.batches import Batch, batch_indices
from aha_core.config import Params, parse_params
from aha_core.data.dataset import PreparedImages
from aha_core.data.prepare import prepare_synthetic
from aha_core.errors import AttributionError, ConfigError, ResourceError
from aha_core.explainer.storage import Training, save_explainer
from aha_core.fastshap import fastshap_loss
from aha_core.masked_passes import MaskedPasses
from aha_core.runtime import LocalRuntime
from aha_core.targets import Target, create_model
from aha_core.training import explained, new_state, train, training_loss
from tests.conftest import small_params


@pytest.fixture(scope="module")
def params() -> Params:
    return parse_params(small_params())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, params):
    folder = tmp_path_factory.mktemp("data")
    prepare_synthetic(params.data, params.seed, folder)
    return PreparedImages(folder, "train", params.train.augment)


@pytest.fixture
def target(params):
    torch.manual_seed(0)
    size = params.data.image_size
    return Target("vit_convstem_mini", create_model("vit_convstem_mini", 10, size), size, [str(i) for i in range(10)])


LABELS = list(range(10))
NO_MOSAICS = torch.zeros(4, dtype=torch.bool)


def weights(state):
    return torch.cat([value.flatten() for value in state.average.state_dict().values()])


def test_batches_walk_through_every_image_once_per_epoch():
    seen = [index for step in range(5) for index in batch_indices(seed=1, step=step, batch=8, count=20)]
    assert sorted(seen[:20]) == list(range(20))
    assert sorted(seen[20:40]) == list(range(20))
    assert seen[:20] != seen[20:40]
    assert len(batch_indices(seed=1, step=0, batch=50, count=20)) == 50


def test_killed_and_resumed_run_ends_with_the_same_weights_and_curve(params, dataset, target):
    saved: list[bytes] = []
    whole = train(params, target, dataset, LABELS, LocalRuntime(torch.device("cpu"), save=saved.append))
    first_checkpoint = saved[0]
    resumed = train(params, target, dataset, LABELS, LocalRuntime(torch.device("cpu"), load=lambda: first_checkpoint))
    assert len(saved) == params.train.steps // params.train.checkpoint_every
    assert torch.equal(weights(whole), weights(resumed))
    assert whole.curve == resumed.curve


def test_finished_checkpoint_trains_no_further(params, dataset, target):
    saved: list[bytes] = []
    train(params, target, dataset, LABELS, LocalRuntime(torch.device("cpu"), save=saved.append))
    steps: list[int] = []
    train(params, target, dataset, LABELS, LocalRuntime(torch.device("cpu"), load=lambda: saved[-1]), steps.append)
    assert steps == []


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_loss_has_gradients_for_every_parameter(params, dataset, target, preset):
    if preset == "paper":
        raw = params.model_dump(mode="json")
        raw["ranking"] |= {"method": "gumbel_sinkhorn", "standardise": False, "grid_max": 8}
        raw["objective"] |= {"sampling": "grid", "fractions": 4, "classes_per_image": "all"}
        params = parse_params(raw)
    images, labels = dataset.batch(range(4))
    batch = Batch(images.float() / 255, labels, range(4), NO_MOSAICS)
    state = new_state(params, target, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # FiLM starts at zero, which hides the row's gradient
        for weight in state.explainer.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    loss, row = training_loss(state.explainer, MaskedPasses(target, "fp32", 1.0), batch, params, step=0)
    loss.backward()
    assert loss.item() == pytest.approx(
        row["deletion_auc"] + 1 - row["insertion_auc"] + params.objective.smoothness * row["smoothness"], rel=1e-5
    )
    silent = [name for name, weight in state.explainer.named_parameters() if weight.grad is None]
    assert silent == []
    assert all(weight.grad is None for weight in target.parameters())


@pytest.mark.parametrize("method", ["soft_topk", "transport", "lapsum"])
def test_maps_train_at_pixel_resolution(params, dataset, target, method):
    size = params.data.image_size
    changes = {"method": method, "grid_min": size, "grid_max": size, "noise": False}
    params = params.model_copy(update={"ranking": params.ranking.model_copy(update=changes)})
    state = train(params, target, dataset, LABELS, LocalRuntime(torch.device("cpu")))
    assert all(0 < row["gradient_norm"] < 1e3 for row in state.curve)
    assert state.step == params.train.steps


def test_sharded_batches_give_the_mean_loss_of_the_whole_batch(params, dataset, target):
    images, labels = dataset.batch(range(4))
    state = new_state(params, target, torch.device("cpu"))

    def loss(positions):
        part = slice(positions.start, positions.stop)
        batch = Batch(images[part].float() / 255, labels[part], positions, NO_MOSAICS[part])
        return training_loss(state.explainer, MaskedPasses(target, "fp32", 1.0), batch, params, step=1)[0].item()

    assert (loss(range(0, 2)) + loss(range(2, 4))) / 2 == pytest.approx(loss(range(0, 4)), rel=1e-5)


def with_parts(params, classes, each, weight=0.0):
    changes = {"classes": classes, "classes_per_image": each, "parts": weight}
    return params.model_copy(update={"objective": params.objective.model_copy(update=changes)})


def half_mosaics(dataset):
    images, labels = dataset.batch(range(32))
    return Batch(images.float() / 255, labels, range(32), torch.arange(32) % 2 == 0)


@torch.no_grad()
def level(target, images):
    """Untrained, it predicts one class for everything: make all as likely on average."""
    target.model.get_classifier().bias -= target(images).mean(dim=0)


def test_role_part_explains_a_part_of_mosaics_and_the_prediction_elsewhere(params, dataset, target):
    batch = half_mosaics(dataset)
    level(target, batch.images)
    state, passes = new_state(params, target, torch.device("cpu")), MaskedPasses(target, "fp32", 1.0)
    one = explained(state.explainer, passes, batch, with_parts(params, ("predicted", "part"), "all"), step=1)
    predicted, part = one.by_role
    assert torch.equal(part[~batch.mosaics], predicted[~batch.mosaics])
    assert not torch.equal(part, predicted)
    assert (one.confidence[0] == 0).all() and torch.equal(one.confidence[1] > 0, batch.mosaics)


def test_what_lies_outside_of_a_part_is_weighed_and_does_not_depend_on_the_workers(params, dataset, target):
    batch = half_mosaics(dataset)
    level(target, batch.images)
    state = new_state(params, target, torch.device("cpu"))

    def loss(part, weight):
        own = Batch(batch.images[part], batch.labels[part], batch.positions[part], batch.mosaics[part])
        wanted = with_parts(params, ("predicted", "part", "runner_up"), "one", weight)
        value, row = training_loss(state.explainer, MaskedPasses(target, "fp32", 1.0), own, wanted, step=1)
        return value.item(), row.get("outside")

    (with_weight, share), (without, none) = loss(slice(0, 32), 0.5), loss(slice(0, 32), 0.0)
    assert none is None and share > 0
    assert with_weight == pytest.approx(without + 0.5 * share, rel=1e-5)
    first, second = loss(slice(0, 16), 0.5), loss(slice(16, 32), 0.5)
    assert (first[0] + second[0]) / 2 == pytest.approx(with_weight, rel=1e-5)
    assert (first[1] + second[1]) / 2 == pytest.approx(share, rel=1e-4)


def test_fastshap_spends_our_masked_passes_and_trains_every_parameter(params, dataset, target):
    images, labels = dataset.batch(range(4))
    batch = Batch(images.float() / 255, labels, range(4), NO_MOSAICS)
    state = new_state(params, target, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # FiLM starts at zero, which hides the row's gradient
        for weight in state.explainer.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    ours, theirs = MaskedPasses(target, "fp32", 1.0), MaskedPasses(target, "fp32", 1.0)
    training_loss(state.explainer, ours, batch, params, step=0)
    loss, row = fastshap_loss(state.explainer, theirs, batch, params, step=0)
    loss.backward()
    assert theirs.images == ours.images == 4 * 2 * params.objective.fractions
    assert row["loss"] == loss.item() and row["inefficiency"] > 0
    assert [name for name, weight in state.explainer.named_parameters() if weight.grad is None] == []
    assert all(weight.grad is None for weight in target.parameters())


def test_fastshap_losses_of_shards_average_to_the_whole(params, dataset, target):
    images, labels = dataset.batch(range(4))
    state = new_state(params, target, torch.device("cpu"))

    def loss(positions):
        part = slice(positions.start, positions.stop)
        batch = Batch(images[part].float() / 255, labels[part], positions, NO_MOSAICS[part])
        return fastshap_loss(state.explainer, MaskedPasses(target, "fp32", 1.0), batch, params, step=1)[0].item()

    assert (loss(range(0, 2)) + loss(range(2, 4))) / 2 == pytest.approx(loss(range(0, 4)), rel=1e-4)


def test_fastshap_learns(params, dataset, target):
    train_config = params.train.model_copy(update={"steps": 60, "report_every": 10, "batch_size": 8, "lr": 3e-3})
    long = params.model_copy(update={"train": train_config})
    curve = train(long, target, dataset, LABELS, LocalRuntime(torch.device("cpu")), loss=fastshap_loss).curve
    assert curve[-1]["loss"] < 0.9 * curve[0]["loss"]


def test_a_warm_up_of_one_step_is_none(params, target):
    one = params.model_copy(update={"train": params.train.model_copy(update={"steps": 10, "warmup": 0.1})})
    state = new_state(one, target, torch.device("cpu"))
    rates = []
    for _ in range(10):
        rates.append(state.optimiser.param_groups[0]["lr"])
        state.optimiser.step()
        state.schedule.step()
    assert max(rates) == pytest.approx(params.train.lr, rel=0.05) and rates == sorted(rates, reverse=True)


def test_averaged_weights_follow_the_trained_ones(params, dataset, target):
    state = train(params, target, dataset, LABELS, LocalRuntime(torch.device("cpu")))
    start = new_state(params, target, torch.device("cpu"))
    trained = torch.cat([value.flatten() for value in state.explainer.state_dict().values()])
    before = weights(start)
    assert not torch.equal(trained, before)
    assert (weights(state) - trained).norm() < (before - trained).norm()


def test_indivisible_batch_names_the_remedy(params, dataset, target):
    runtime = LocalRuntime(torch.device("cpu"), world=3)
    with pytest.raises(ConfigError, match=r"train.batch_size = 4 .* 3 workers; use a multiple"):
        train(params, target, dataset, LABELS, runtime)


def test_a_loss_that_is_not_finite_stops_with_the_learning_rate(params, dataset, target):
    broken = Target(target.name, target.model, target.image_size, target.class_names)
    broken.std.fill_(float("nan"))
    with pytest.raises(ResourceError, match=r"loss is nan at step 0; lower train.lr"):
        train(params, broken, dataset, LABELS, LocalRuntime(torch.device("cpu")))


class TestStart:
    """`train.start`: training goes on from another explainer's weights."""

    @pytest.fixture
    def trained(self, params, target, tmp_path):
        """A folder with an explainer whose weights are not the seeded ones."""
        other = params.model_copy(update={"seed": params.seed + 1})
        network = new_state(other, target, torch.device("cpu")).explainer
        training = Training(target.name, other.seed, params.explainer, params.ranking, params.perturbation)
        save_explainer(tmp_path / "explainer", network, training)
        return network.state_dict(), tmp_path

    @staticmethod
    def starting(params, start, **explainer):
        update = {"train": params.train.model_copy(update={"start": str(start)})}
        update["explainer"] = params.explainer.model_copy(update=explainer)
        return params.model_copy(update=update)

    def test_both_networks_begin_with_the_weights(self, params, target, trained):
        saved, folder = trained
        fresh = new_state(params, target, torch.device("cpu"))
        state = new_state(self.starting(params, folder), target, torch.device("cpu"))
        for network in (state.explainer, state.average):
            assert all(value.equal(saved[name]) for name, value in network.state_dict().items())
        assert not weights(state).equal(weights(fresh))
        assert state.step == 0 and all(one.requires_grad for one in state.explainer.parameters())

    def test_a_checkpoint_wins(self, params, dataset, target, trained):
        """A killed run continues; it does not begin again."""
        params, saved = self.starting(params, trained[1]), []
        whole = train(params, target, dataset, LABELS, LocalRuntime(torch.device("cpu"), save=saved.append))
        runtime = LocalRuntime(torch.device("cpu"), load=lambda: saved[0])
        assert weights(train(params, target, dataset, LABELS, runtime)).equal(weights(whole))

    def test_another_network_is_refused_with_its_settings(self, params, target, trained):
        with pytest.raises(AttributionError, match=r"train.start: .* another network .* 'width': 16"):
            new_state(self.starting(params, trained[1], width=32), target, torch.device("cpu"))

    def test_nothing_there(self, params, target, tmp_path):
        with pytest.raises(AttributionError, match="no explainer in .*nowhere"):
            new_state(self.starting(params, tmp_path / "nowhere"), target, torch.device("cpu"))
