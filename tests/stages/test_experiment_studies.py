"""Studies by DVC experiments: what is run, what counts as the default, how results are put together."""

from dataclasses import replace

import pandas as pd
import pytest

from aha_core.config import FeaturesConfig, load_params, parse_params
from aha_core.errors import ConfigError, ResourceError
from stages.context import Context
from stages.paths import Paths
from stages.studies import designs, experiments, relaxation
from tests.conftest import ROOT, small_params


@pytest.fixture
def ctx(tmp_path):
    params = parse_params(small_params())
    return Context(Paths(tmp_path), params, 0, "cpu", 1, "sqlite://")


def of_designs(steps=150):
    explainer = FeaturesConfig(kind="features", levels=(0.5, 1.0), width=32, depth=2, refine_scales=2)
    return designs.settings(explainer, steps)


@pytest.mark.parametrize("settings", [relaxation.settings(), of_designs()], ids=["relaxation", "designs"])
def test_every_setting_is_a_valid_parameter_set_and_named_after_what_it_changes(settings):
    by_name = {setting.experiment: setting.changes for setting in settings}
    assert len(by_name) == len({str(sorted(changes.items())) for changes in by_name.values()})
    assert all(by_name[setting.experiment] == setting.changes for setting in settings)
    for setting in settings:
        raw = small_params()
        for name, value in setting.changes.items():
            section, field = name.split(".")
            assert field in raw[section]
            raw[section][field] = value
        raw["objective"]["fractions"] = max(raw["objective"]["fractions"], 1)
        parse_params(raw)
        assert all(part.isascii() and " " not in part for part in setting.experiment)


def test_settings_of_fractions_cost_the_same_number_of_masked_passes():
    passes = []
    for setting in relaxation.settings():
        if setting.family == "fractions":
            count = setting.changes["objective.fractions"]
            inner = count - 2 if setting.changes["objective.sampling"] == "grid" else count
            passes.append(2 * inner * setting.changes["train.steps"])
    assert min(passes) > 0.95 * max(passes)


def test_each_family_has_the_active_preset_once():
    raw = small_params()
    raw["ranking"] |= {"grid_min": 7, "grid_max": 28}
    params = parse_params(raw)
    found = [setting.family for setting in relaxation.settings() if setting.is_default(params)]
    assert sorted(found) == ["fractions", "grid", "relaxation", "temperature"]


def test_designs_change_the_preset_and_share_its_experiment(ctx):
    settings = of_designs()
    presets = [setting for setting in settings if setting.is_default(ctx.params)]
    assert {setting.family for setting in presets} == {setting.family for setting in settings}
    assert len({setting.experiment for setting in presets if not setting.varied}) == 1
    assert presets[0].experiment != of_designs(steps=10)[0].experiment


def test_designs_are_those_of_the_explainer_that_reads_features(ctx, tmp_path):
    paper = load_params(ROOT / "configs/embedded-paper.yaml")
    with pytest.raises(ConfigError, match="explainer.kind = dpt"):
        designs.run(replace(ctx, params=paper), tmp_path)


def test_results_are_intervals_and_paired_differences_from_the_default(ctx, monkeypatch):
    chosen = [setting for setting in relaxation.settings() if setting.family == "relaxation"][:2]
    better = {chosen[0].experiment: 0.0, chosen[1].experiment: 0.1}

    def get(ctx, setting, output, folder):
        file = ctx.paths.root / f"{setting.experiment}-{output.split('/')[-1]}"
        if output.endswith("parquet"):
            shift = better[setting.experiment]
            rows = [
                {"method": method, "index": image, "srg": image / 10 + shift + offset}
                for method in ("aha_t0", "centre") for image in range(5) for offset in (-0.1, 0.1)
            ]  # fmt: skip
            pd.DataFrame(rows).to_parquet(file)
        else:
            pd.DataFrame({"step": range(4), "gradient_norm": [9.0, 9.0, 1.0, 3.0]}).to_csv(file, index=False)
        return file

    monkeypatch.setattr(experiments, "_get", get)
    table = experiments.collect(ctx, chosen).set_index("setting")
    assert table.default.tolist() == [True, False]
    assert table.srg["soft_topk"] == pytest.approx(0.2)
    assert table.low["soft_topk"] < 0.2 < table.high["soft_topk"]
    assert table.difference["lapsum"] == pytest.approx(0.1)
    assert table.difference_low["lapsum"] == pytest.approx(0.1)
    assert table.late_gradient_norm["lapsum"] == pytest.approx(2.0)


def test_a_failed_experiment_shows_the_end_of_its_output(ctx):
    with pytest.raises(ResourceError, match=r"dvc exp run failed; the same command continues\n"):
        experiments.experiment(ctx.paths.root, relaxation.settings()[0])


def test_an_experiment_is_run_once_for_each_number_of_images(ctx, monkeypatch):
    listed, scored = set(), []
    monkeypatch.setattr(experiments, "existing", lambda root: set(listed))
    monkeypatch.setattr(experiments, "experiment", lambda root, setting: listed.add(setting.experiment))
    monkeypatch.setattr(experiments, "collect", lambda ctx, settings: scored.append(settings) or pd.DataFrame())
    monkeypatch.setattr(experiments, "settings_figure", lambda table, score: None)
    monkeypatch.setattr(experiments, "to_png", lambda figure: b"")
    for images, count in ((5, 1), (5, 1), (6, 2)):
        experiments.run_settings(ctx, ctx.paths.root, "any", relaxation.settings()[:1], images)
        assert len(listed) == count
        assert scored[-1][0].experiment in listed
        assert scored[-1][0].changes["evaluate.images"] == images
