"""The exported graph gives what the library gives, for any batch and class."""

import json
import sys

import numpy as np
import pytest
import torch

from aha_core.errors import AhaError, AttributionError
from aha_core.export import TOLERANCE, Graph, export
from tests.unit.explainer.test_explainer import SIZE, images, make_explainer, make_target


@pytest.fixture(scope="module")
def explainer():
    """To an untrained target all patches are nearly alike, and standardising what little they differ by would enlarge
    rounding a thousand times; with positions that differ, it does not."""
    target = make_target()
    torch.nn.init.normal_(target.model.pos_embed)
    return make_explainer(target)


@pytest.fixture
def plain_shapes(unchecked_types):
    """Tracing meets symbolic shapes, which the checker would compare with numbers."""


@pytest.mark.parametrize("name", ["vit_convstem_mini", "resnet18"])
def test_graph_takes_predicted_and_given_classes(name):
    explainer = make_explainer(make_target(name))
    x = images(3)
    maps, probabilities = Graph(explainer)(x, torch.tensor([-1, 4, -1]))
    predicted = explainer.target.probabilities(x)
    torch.testing.assert_close(probabilities, predicted)
    wanted = predicted.argmax(dim=1)
    wanted[1] = 4
    torch.testing.assert_close(maps, explainer.attribute(x, wanted))


def test_onnx_runs_in_onnxruntime_with_any_batch(explainer, tmp_path, plain_shapes):
    import onnxruntime

    made = export(explainer, tmp_path / "graph.onnx", "onnx")
    assert max(made.map_error, made.probability_error) <= TOLERANCE
    assert made.size == (tmp_path / "graph.onnx").stat().st_size
    assert min(made.latency) > 0
    session = onnxruntime.InferenceSession(made.file, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == explainer.target.class_names
    assert int(facts["image_size"]) == SIZE
    for count in (1, 5):
        x = images(count)
        maps, probabilities = session.run(None, {"images": x.numpy(), "classes": np.full(count, -1)})
        np.testing.assert_allclose(maps, explainer.attribute(x).numpy(), atol=TOLERANCE)
        np.testing.assert_allclose(probabilities, explainer.target.probabilities(x).numpy(), atol=TOLERANCE)


def test_torch_export_file_is_read_back_without_the_library(explainer, tmp_path, plain_shapes):
    made = export(explainer, tmp_path / "graph.pt2", "torch-export")
    extra = {"aha.json": ""}
    module = torch.export.load(made.file, extra_files=extra).module()
    assert json.loads(extra["aha.json"])["class_names"] == explainer.target.class_names
    x = images(4)
    maps, _ = module(x, torch.tensor([3, 3, 3, 3]))
    torch.testing.assert_close(maps, explainer.attribute(x, 3))


def test_what_differs_is_not_handed_over(explainer, tmp_path, monkeypatch):
    def zeros(_program, file, facts):
        file.write_text(facts["target"])
        return lambda x, _classes: (np.zeros((len(x), 1, SIZE, SIZE)), explainer.target.probabilities(x).numpy())

    monkeypatch.setattr("torch.export.export", lambda *_arguments, **_options: None)
    monkeypatch.setattr("aha_core.export._torch_export", zeros)
    with pytest.raises(AttributionError, match="differs from the library by .* in maps .* nothing was written"):
        export(explainer, tmp_path / "graph.pt2", "torch-export")
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(explainer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(AhaError, match=r"onnxruntime; pip install 'aha\[export\]'"):
        export(explainer, tmp_path / "graph.onnx", "onnx")
