"""`aha study localisation`: maps against masks and boxes of a folder of images."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from aha_core.attribution import Explainer
from aha_core.data.objects import BoxTable, MaskFolder
from aha_core.errors import ConfigError, DataError
from aha_core.metrics import energy_in_mask
from stages.cli import app
from stages.context import Context
from stages.reporting.studies import localisation as describe
from stages.studies import localisation
from tests.stages.test_studies import save_untrained

SIZE = 48  # pixels; the target's input is 32


@pytest.fixture
def ctx(workspace, change) -> Context:
    """A workspace with an untrained explainer and six photos, one of them without a mask."""
    change("resources", threads=1, batch_size=4)
    ctx = Context.create(workspace, device="cpu")
    save_untrained(ctx, workspace / "outputs/explainer", seed=0)
    draw = np.random.default_rng(0)
    for place in range(6):
        folder = "photos/more" if place > 3 else "photos"
        image, mask = draw.integers(0, 255, (SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.uint8)
        mask[12:36, 12:36] = 1
        mask[:, :6] = 255
        for root, pixels in (("", image), ("masks/", mask)):
            file = workspace / f"{root}{folder}/{place}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    (workspace / "masks/photos/2.png").unlink()
    return ctx


def study(ctx: Context, objects, images: int | None = None, steps: int = 1) -> pd.DataFrame:
    root, out = ctx.paths.root, ctx.paths.root / "study"
    explainer = Explainer.load(ctx.paths.explainer, ctx.paths.target, ctx.params.refine)
    localisation.run(ctx, out, root / "photos", objects, explainer, images, steps, ("centre", "random"))
    return pd.read_csv(out / "localisation.csv")


def test_tables_and_figure(ctx):
    root = ctx.paths.root
    table = study(ctx, MaskFolder(root / "masks/photos", void=255))
    everywhere = table[table.images_of == "all"].set_index("method")
    assert list(everywhere.index) == ["aha_t0", "aha_t1", "centre", "random"]
    assert set(everywhere.images) == {5}
    counted = 1 - 6 / SIZE  # void columns have no pixels
    assert everywhere.area.to_numpy() == pytest.approx(0.25 / counted, abs=0.01)
    assert everywhere.energy["centre"] > everywhere.energy["random"]
    assert everywhere.pointing["centre"] == 1
    assert everywhere.energy["random"] == pytest.approx(everywhere.area["random"], abs=0.03)
    gap = everywhere.energy["aha_t0"] - everywhere.energy["centre"]
    assert everywhere.difference["centre"] == pytest.approx(gap, abs=1e-3)
    assert np.isnan(everywhere.difference["aha_t0"])
    assert set(table[table.images_of == "off-centre"].method) == set()  # every object is in the middle
    facts = json.loads((root / "study/localisation.json").read_text())
    assert (facts["images"], facts["steps"], facts["left_out"]) == (5, 1, {})
    (sentence,) = describe(table, facts)
    assert (
        f"{everywhere.energy['aha_t0']:.0%} [" in sentence and f"Centre {everywhere.energy['centre']:.0%}" in sentence
    )
    with Image.open(root / "study/localisation.png") as figure:
        assert figure.width > 500


def test_values_are_those_of_the_explainer_and_the_metric(ctx):
    root = ctx.paths.root
    table = study(ctx, MaskFolder(root / "masks/photos", void=None), steps=0).set_index("method")
    explainer = Explainer.load(ctx.paths.explainer, ctx.paths.target)
    files = [root / f"photos/{name}.png" for name in ("0", "1", "3", "more/4", "more/5")]
    energies = []
    for file in files:
        (photo,) = localisation.photographs(
            ctx, explainer, root / "photos", [file], MaskFolder(root / "masks/photos", void=None), []
        )
        assert not photo.void.any()
        energies.append(energy_in_mask(explainer.attribute(photo.x), photo.masks).item())
    assert table.energy["aha_t0"] == pytest.approx(np.mean(energies), abs=1e-4)


def test_an_unreadable_image_is_listed_and_the_rest_goes_on(ctx, monkeypatch):
    root, said = ctx.paths.root, []
    (root / "photos/1.png").write_bytes(b"no picture")
    monkeypatch.setattr(Context, "say_skipped", lambda self, name, reason: said.append((name, reason)))
    explainer = Explainer.load(ctx.paths.explainer, ctx.paths.target, ctx.params.refine)
    objects = MaskFolder(root / "masks/photos", void=255)
    localisation.run(ctx, root / "study", root / "photos", objects, explainer, None, 0, ())  # and without a baseline
    table = pd.read_csv(root / "study/localisation.csv")
    assert table.method.tolist() == ["aha_t0"] and table.images.tolist() == [4] and table.difference.isna().all()
    assert said == [(str(root / "photos/1.png"), "not an image that can be read")]


def test_boxes_and_fewer_images(ctx):
    root = ctx.paths.root
    (root / "boxes.csv").write_text("image,x0,y0,x1,y1\n0.png,0,0,24,48\n3.png,0,0,24,48\nmore/5.png,0,0,24,48\n")
    table = study(ctx, BoxTable(root / "boxes.csv"), images=3, steps=0).set_index(["images_of", "method"])
    assert table.images["all", "centre"] == 1  # of 0, 2, more/4, the first alone has a box
    assert table.area["all", "centre"] == pytest.approx(0.5)


def test_what_is_missing(ctx):
    root = ctx.paths.root
    (root / "empty").mkdir()
    with pytest.raises(DataError, match=r"no image has a mask below .*empty"):
        study(ctx, MaskFolder(root / "empty", void=None))
    for file in (root / "masks/photos").rglob("*.png"):
        Image.new("L", (SIZE, SIZE)).save(file)
    with pytest.raises(DataError, match="no readable image below .*photos has an object"):
        study(ctx, MaskFolder(root / "masks/photos", void=None))
    (root / "boxes.csv").write_text("image,x0,y0,x1,y1\n00.png,0,0,24,48\n")
    with pytest.raises(DataError, match=r"boxes.csv, line 2: no image '00.png' .* names look like 0.png"):
        study(ctx, BoxTable(root / "boxes.csv"))
    for options in ([], ["--masks", "masks/photos", "--boxes", "params.yaml"]):
        result = CliRunner().invoke(app, ["study", "localisation", "photos", *options])
        assert isinstance(result.exception, ConfigError) and "one of --masks" in str(result.exception)
