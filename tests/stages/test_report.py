"""The report in a browser: made by the real stages, every control used, nothing loaded, nothing wider than the page."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from aha_core.selection import taking_turns
from stages import evaluate, refine, report
from stages.context import Context
from stages.reporting.explorer import rank_levels
from stages.reporting.studies import read_studies, throughput
from tests.stages.conftest import untrained_explainer
from tests.stages.quiet import Quiet

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LIMIT = 15 * 2**20  # bytes
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def reported(prepared_workspace, tmp_path_factory) -> Context:
    """A workspace with an untrained explainer, scores and a study, and its report."""
    root = tmp_path_factory.mktemp("reported") / "w"
    shutil.copytree(prepared_workspace, root)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["evaluate"] |= {"methods": ["random", "centre", "grad_cam", "occlusion"], "measures": ["mas"]}
    params["evaluate"]["slow"] = {"methods": ["occlusion"], "measures": [], "images": 2}  # fewer than the gallery
    params["evaluate"]["checks"]["methods"] = ["aha"]
    params["resources"] |= {"threads": 1, "batch_size": 2}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    ctx = Context.create(root, device="cpu")
    untrained_explainer(ctx)
    ctx.paths.plots.mkdir(parents=True, exist_ok=True)
    (ctx.paths.plots / "training.csv").write_text("step,loss\n1,0.5\n2,0.4\n")
    write_study(ctx)
    with pytest.MonkeyPatch.context() as patch:
        for module in (evaluate, report):
            patch.setattr(module, "Tracker", Quiet)
        for stage in (refine, evaluate, report):
            stage.run(ctx)
    return ctx


def write_study(ctx: Context, **facts) -> None:
    folder = ctx.paths.outputs / "study"
    folder.mkdir(exist_ok=True)
    columns = ["method", "depth", "group", "spearman", "spearman_low", "spearman_high"]
    pd.DataFrame([["aha", 1, "head", 0.9, 0.8, 1.0], ["aha", 2, "stem", 0.125, 0.1, 0.2]], columns=columns).to_csv(
        folder / "sanity.csv", index=False
    )
    known = {"target": ctx.params.target.name, "image_size": 32, "seed": 42, "images": 7}
    (folder / "sanity.json").write_text(json.dumps(known | facts))


def test_sections_and_size(reported):
    file = reported.paths.report / "index.html"
    html = file.read_text()
    assert file.stat().st_size < LIMIT
    assert str(reported.paths.root) not in html
    for words in (
        "Without the", "Maps at a glance", "Gallery", "Refinement", "Soft masks", "Quality over cost",
        "By reference: predicted class", "Training curve", "Cost of a map", "Localisation on all objects",
        "AHA, one pass 0.12 [0.10, 0.20]", "<code>aha study shortcut</code>", "<code>aha study transfer</code>",
    ):  # fmt: skip
        assert words in html, words
    assert "<code>aha study sanity</code>, then" not in html


def test_a_study_of_another_target_is_left_out(reported):
    write_study(reported, target="resnet50")
    found, missing = read_studies(reported)
    write_study(reported)
    assert not found
    assert ("Does the map follow the weights? (made for another target)", "aha study sanity") in missing


def test_throughput_is_shown_where_it_was_measured(reported):
    assert throughput(reported) is None
    file = reported.paths.outputs / "bench/explain.json"
    file.parent.mkdir()
    measured = {"target": reported.params.target.name, "image_size": 32, "seed": 42, "device": "CPU", "threads": 2}
    file.write_text(json.dumps(measured | {"explain": 14.93, "efficiency": 0.723}))
    assert throughput(reported) == (
        "14.9 images/s in one pass, pictures written, on CPU with 2 threads; 72% of decoding and plain passes of the "
        "target alone"
    )
    file.write_text(json.dumps(measured | {"seed": 1}))
    assert throughput(reported) is None


def test_the_first_images_are_of_different_classes(reported):
    in_turn = taking_turns([0, 1, 2, 3, 4], [5, 5, 5, 1, 1])
    assert sorted(in_turn[:2]) == [0, 3] and sorted(in_turn[2:4]) == [1, 4] and in_turn[4] == 2
    order = taking_turns(list(range(1000)), list(range(1000)))
    assert sorted(order) == list(range(1000))
    assert abs(sum(order[:250]) / 250 - 500) < 60  # any first few are a sample of all classes
    labels = pd.read_parquet(reported.paths.evaluation / "scores.parquet").drop_duplicates("index")["label"]
    assert labels.nunique() >= 4
    assert labels.head(labels.nunique()).is_unique


def test_rank_levels():
    scores = np.array([[4.0, 1.0], [3.0, 2.0]], np.float32)
    assert rank_levels(scores, 0).tolist() == [[0, 192], [64, 128]]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, reported):
    """Opens the report at a width; afterwards there must be no complaint of the browser and no request."""
    complaints: list[str] = []
    pages = []

    def at(width: int, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url[:80]) if request.url[:4] == "http" else None)
        page.goto((reported.paths.report / "index.html").as_uri())
        page.wait_for_function("document.querySelector('output').textContent.includes('%')")
        pages.append(page)
        return page

    yield at
    for page in pages:
        page.close()
    assert complaints == []


WIDER = """[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1
    && !one.closest('.scroll, .frame, pre')).map(one => one.outerHTML.slice(0, 80))"""


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows(opened, width, scheme):
    page = opened(width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(WIDER) == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 22, 28)"
    assert dark == (scheme == "dark")


@needs_browser
def test_every_column_sorts_both_ways(opened):
    page = opened(1280)
    tables = page.locator("table")
    assert tables.count() >= 5
    for number in range(tables.count()):
        table = tables.nth(number)
        buttons = table.locator("thead tr:last-child th button")
        for column in range(buttons.count()):
            for _ in range(2):
                buttons.nth(column).click()
                head = table.locator("thead th[aria-sort]")
                assert head.count() == 1
                place = head.evaluate("one => one.cellIndex")
                cells = table.locator("tbody tr").evaluate_all(
                    "(rows, i) => rows.map(r => (r.cells[i].querySelector('.value') ?? r.cells[i]).textContent.trim())",
                    place,
                )
                values = [cell.lower() for cell in cells] if place == 0 else numbers(cells)
                assert values == sorted(values, reverse=head.get_attribute("aria-sort") == "descending")


def numbers(cells: list[str]) -> list[float]:
    """First numbers; cells without one must come last."""
    found = [cell for cell in cells if any(letter.isdigit() for letter in cell)]
    assert cells[: len(found)] == found
    return [float(cell.split()[0].rstrip("%").replace("−", "-").replace(",", "")) for cell in found]


@needs_browser
def test_every_picture_enlarges_and_closes(opened):
    page = opened(1280)
    dialog, buttons = page.locator("dialog"), page.locator("button.enlarge")
    assert buttons.count() == page.locator("section .frame img").count() >= 8
    for number in range(buttons.count()):
        button = buttons.nth(number)
        button.focus()
        page.keyboard.press("Enter")
        assert dialog.is_visible()
        assert dialog.locator("img").get_attribute("src") == button.locator("img").get_attribute("src")
        if number % 2:
            page.keyboard.press("Escape")
        else:
            dialog.get_by_role("button", name="Close").click()
        assert not dialog.is_visible()
        assert button.evaluate("one => one === document.activeElement")


def black_pixels(page) -> int:
    return page.evaluate(
        """() => { const canvas = document.querySelector('canvas'), data = canvas.getContext('2d')
        .getImageData(0, 0, canvas.width, canvas.height).data; let black = 0;
        for (let i = 0; i < data.length; i += 4) black += data[i] + data[i + 1] + data[i + 2] === 0; return black; }"""
    )


@needs_browser
def test_the_slider_removes_and_inserts_by_rank(opened, reported):
    page = opened(1280)
    slider, output = page.get_by_role("slider"), page.locator("output")
    first = black_pixels(page)
    slider.focus()
    page.keyboard.press("End")
    page.wait_for_function("document.querySelector('output').textContent.startsWith('100 % removed')")
    assert black_pixels(page) == 32 * 32
    slider.fill("0")
    page.wait_for_function("document.querySelector('output').textContent.startsWith('0 %')")
    whole = black_pixels(page)
    assert abs(first - whole - 0.2 * 32 * 32) <= 8
    rows = pd.read_parquet(reported.paths.evaluation / "scores.parquet")
    assert output.text_content() == f"0 % removed: probability {rows['probability'].iloc[0]:.2f}"
    page.get_by_label("inserted").check()
    page.wait_for_function("document.querySelector('output').textContent.includes('inserted')")
    assert black_pixels(page) == 32 * 32
    page.get_by_label("blur").check()
    page.wait_for_function("document.querySelector('canvas').getAttribute('aria-label').includes('blur')")
    assert black_pixels(page) < 32
    for name in ("Image", "Ranked by"):
        choice = page.get_by_label(name, exact=True)
        for option in choice.locator("option").all():
            choice.select_option(option.get_attribute("value"))
            words = option.text_content()
            page.wait_for_function(
                "words => document.querySelector('canvas').getAttribute('aria-label').includes(words)", arg=words
            )
    assert slider.get_attribute("aria-valuetext") == output.text_content()


@needs_browser
def test_print_shows_no_controls(opened):
    page = opened(1280)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator("#explorer-section").is_visible()
    assert page.locator("#verdict").is_visible()


@needs_browser
def test_without_scripts_the_report_can_be_read(browser, reported):
    page = browser.new_page(java_script_enabled=False)
    page.goto((reported.paths.report / "index.html").as_uri())
    assert page.locator("#verdict").is_visible()
    assert not page.locator("#explorer-section").is_visible()
    page.close()
