"""The relaxation study: what is run, what counts as the default, how results are put together."""

import pandas as pd
import pytest

from aha_core.config import parse_params
from stages.context import Context
from stages.paths import Paths
from stages.studies import relaxation as study
from tests.conftest import small_params


@pytest.fixture
def ctx(tmp_path):
    params = parse_params(small_params())
    return Context(Paths(tmp_path), params, 0, "cpu", 1, "sqlite://")


def test_every_setting_is_a_valid_parameter_set_with_a_name_of_its_own():
    names = [setting.experiment for setting in study.settings()]
    assert len(set(names)) == len(names)
    for setting in study.settings():
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
    for setting in study.settings():
        if setting.family == "fractions":
            count = setting.changes["objective.fractions"]
            inner = count - 2 if setting.changes["objective.sampling"] == "grid" else count
            passes.append(2 * inner * setting.changes["train.steps"])
    assert min(passes) > 0.95 * max(passes)


def test_each_family_has_the_active_preset_once():
    raw = small_params()
    raw["ranking"] |= {"grid_min": 7, "grid_max": 28}
    params = parse_params(raw)
    found = [setting.family for setting in study.settings() if study.is_default(setting, params)]
    assert sorted(found) == ["fractions", "grid", "relaxation", "temperature"]


def test_results_are_intervals_and_paired_differences_from_the_default(ctx, monkeypatch):
    chosen = [setting for setting in study.settings() if setting.family == "relaxation"][:2]
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

    monkeypatch.setattr(study, "_get", get)
    table = study.collect(ctx, chosen).set_index("setting")
    assert table.default.tolist() == [True, False]
    assert table.srg["soft_topk"] == pytest.approx(0.2)
    assert table.low["soft_topk"] < 0.2 < table.high["soft_topk"]
    assert table.difference["lapsum"] == pytest.approx(0.1)
    assert table.difference_low["lapsum"] == pytest.approx(0.1)
    assert table.late_gradient_norm["lapsum"] == pytest.approx(2.0)


def test_a_failed_experiment_shows_the_end_of_its_output(ctx):
    with pytest.raises(study.ResourceError, match=r"dvc exp run failed; the same command continues\n"):
        study.experiment(ctx.paths.root, study.settings()[0], 5)
