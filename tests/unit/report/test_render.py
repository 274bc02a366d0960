"""The report is one file, loads nothing, escapes everything and says what it was given."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from aha_core.report import (
    Difference,
    Estimate,
    Explorer,
    ExplorerImage,
    ExplorerMap,
    ReferenceRow,
    ReportContent,
    ReportFigure,
    ReportStudy,
    ReportTable,
    ScoreRow,
    render_report,
)
from aha_core.report.render import Forest, number, p_value, signed

EVIL = "<script>alert('x')</script>"


def picture(side: int = 8) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (side, 2 * side, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def estimate(mean: float) -> Estimate:
    return Estimate(mean, mean - 0.02, mean + 0.02)


def explorer(title: str = "heart 0.98") -> Explorer:
    curves = {"black": ((0.9, 0.1), (0.0, 0.9)), "blur": ((0.9, 0.2), (0.3, 0.9))}
    maps = (ExplorerMap("aha_t0", picture(), curves), ExplorerMap("rise", picture(), curves))
    return Explorer((0.0, 1.0), (ExplorerImage(title, picture(), {"black": picture(), "blur": picture()}, maps),))


CONTENT = ReportContent(
    title="AHA on tiny",
    subtitle="10 classes",
    verdict=("AHA is ahead.", "By a little."),
    scores=(
        ScoreRow("aha_t5", estimate(0.1), estimate(0.6), estimate(0.5), None, estimate(0.7), estimate(0.8)),
        ScoreRow("aha_t0", estimate(0.15), estimate(0.55), estimate(0.4), Difference(0.1, 0.08, 0.12, 0.0001)),
        ScoreRow(
            "grad_cam", estimate(0.3), estimate(0.28), estimate(-0.02), Difference(0.52, 0.5, 0.54, 0.04), images=64
        ),
    ),
    references={"black": (ReferenceRow("aha_t5", 0.1, 0.6, 0.5), ReferenceRow("rise", 0.3, 0.25, -0.05))},
    figures=(ReportFigure("gallery", "Maps", "Maps of three methods.", picture()),),
    contract=("Score: softmax probability.",),
    facts={"Target": "tiny"},
    reproduce=("aha run", "aha report"),
    versions={"torch": "2.15.0"},
    opening=ReportFigure("hero", "At a glance", "Maps side by side.", picture()),
    explorer=explorer(),
    tables=(ReportTable("cost", "Cost of a map", "Counted.", ("Passes",), (("RISE", ("400",)),)),),
    studies=(ReportStudy("study-sanity", "Weights?", ("Maps change.",), (), "aha study sanity"),),
    missing=(("Other targets", "aha study transfer"),),
)


class Page(HTMLParser):
    """Collects tags with attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def html(tmp_path):
    render_report(CONTENT, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


def test_methods_scored_on_fewer_images_say_so(html):
    assert Page(html).text.count("64 images") == 1


def test_nothing_is_loaded(html):
    page = Page(html)
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            value = attributes.get(name, "")
            assert value == "" or value.startswith(("data:image/", "#")), value
    assert [script.get("type") for script in page.all("script")] == ["application/json", None]
    assert not page.all("link")
    assert not re.search(r"url\(|@import|https?://|fetch\(|import\(|XMLHttp", html)


def test_only_the_reports_own_script_may_run(html):
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (one["content"] for one in Page(html).all("meta") if one.get("http-equiv"))
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_everything_given_is_shown(html):
    text = " ".join(Page(html).text.split())
    for wanted in (
        "AHA on tiny", "10 classes", "AHA is ahead.", "By a little.", "AHA (5 steps)", "AHA (one pass)", "Grad-CAM",
        "0.480 to 0.520", "p < 0.001", "p = 0.040", "+0.520", "−0.020", "black", "RISE", "Maps of three methods.",
        "At a glance", "Maps side by side.", "heart 0.98", "Cost of a map", "400", "Maps change.", "aha study transfer",
        "Score: softmax probability.", "Target", "aha run", "torch 2.15.0", "best baseline: Grad-CAM",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_texts_are_escaped(tmp_path):
    bad = replace(
        CONTENT,
        title=EVIL,
        verdict=(EVIL,),
        scores=(replace(CONTENT.scores[0], method=EVIL),),
        references={EVIL: CONTENT.references["black"]},
        figures=(ReportFigure('x" onload="y', EVIL, EVIL, picture(), EVIL),),
        contract=(EVIL,),
        facts={EVIL: EVIL},
        reproduce=(EVIL,),
        versions={EVIL: EVIL},
        warnings=(EVIL,),
        explorer=explorer(f"{EVIL}</script><!--"),
        studies=(ReportStudy('y" onclick="z', EVIL, (EVIL,), (), EVIL),),
        missing=((EVIL, EVIL),),
    )
    render_report(bad, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    assert len(page.all("script")) == 2
    assert html.count("&lt;script&gt;") > 10
    assert not any({"onload", "onclick"} & attributes.keys() for _, attributes in page.tags)
    data = json.loads(html.split('id="explorer-data">')[1].split("</script>")[0])
    assert data["images"][0]["title"] == f"{EVIL}</script><!--"


def test_pictures_have_sizes_and_texts(html):
    hero, image = Page(html).all("img")
    assert hero["alt"] == "Maps side by side."
    assert (image["width"], image["height"]) == ("16", "8")
    assert image["alt"] == "Maps of three methods."
    assert image["src"].startswith("data:image/png;base64,")


def test_large_pictures_become_webp(tmp_path):
    large = replace(CONTENT, opening=None, figures=(ReportFigure("a", "b", "c", picture(300)),))
    render_report(large, tmp_path / "report.html")
    (image,) = Page((tmp_path / "report.html").read_text()).all("img")
    assert image["src"].startswith("data:image/webp;base64,")
    assert (image["width"], image["height"]) == ("600", "300")


def test_structure(html):
    page = Page(html)
    assert len(page.all("h1")) == 1
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"].removeprefix("#") for link in page.all("a")} <= set(ids)
    assert all(head.get("scope") in ("col", "row", "colgroup") for head in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_empty_parts_disappear(tmp_path):
    bare = tuple(replace(row, difference=None, energy=None, pointing=None) for row in CONTENT.scores)
    empty = replace(
        CONTENT, scores=bare, references={}, figures=(), opening=None, explorer=None, studies=(), missing=()
    )
    render_report(empty, tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text()).text.split("// The report's controls")[0]
    assert "Remove pixels" not in text and "Not in this report" not in text
    assert "Energy" not in text
    assert "AHA − method" not in text
    assert "Scores by reference" not in text


def test_same_content_same_bytes(tmp_path, html):
    render_report(CONTENT, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == html


def test_numbers():
    assert (number(-0.0204), signed(0.5), signed(-0.5)) == ("−0.020", "+0.500", "−0.500")
    assert (p_value(0.00099), p_value(0.0123)) == ("p < 0.001", "p = 0.012")


def test_forest_scale_holds_all_intervals_and_zero():
    forest = Forest.around([Estimate(0.4, 0.2, 0.5), Estimate(0.9, 0.8, 1.0)])
    assert (forest.low, forest.high) == (-0.04, 1.04)
    assert forest.place(0.5) == "50.00"
    assert Forest.around([Estimate(0, 0, 0)]).place(0) == "50.00"
