"""Numbers in docs/ are those of the committed results."""

import pandas as pd
import pytest

from tests.conftest import ROOT

RESULTS = ROOT / "docs/results"


def decimals(value: float) -> str:
    """.017, as the pages write it."""
    return f"{value:.3f}".lstrip("0")


def bench_table() -> str:
    """The cost table of docs/training-cost.md, from the CSV files."""
    lines = [
        "| profile | preset | images/s | peak MB | masked passes per image | outside |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for profile in sorted(folder.name for folder in (RESULTS / "bench").iterdir() if folder.is_dir()):
        rows = pd.read_csv(RESULTS / "bench" / profile / "train.csv")
        for row in rows.itertuples():
            lines.append(
                f"| {profile} | {row.preset} | {row.images_per_second:.3g} | {row.peak_mb:.0f} | {row.masked_passes:g} "
                f"| {row.outside:.0%} |"
            )
    return "\n".join(lines)


def test_cost_table_is_the_committed_one():
    page = (ROOT / "docs/training-cost.md").read_text()
    assert page.split("<!-- table bench -->\n")[1].split("\n<!-- end -->")[0] == bench_table()


@pytest.mark.parametrize(
    ("family", "words"), [("relaxation", "all eight lie within {}"), ("temperature", "all six schedules are within {}")]
)
def test_spread_within_a_family_of_the_study(family, words):
    table = pd.read_csv(RESULTS / "study/settings.csv")
    srg = table[table.family == family].srg
    page = " ".join((ROOT / "docs/study-relaxation.md").read_text().split())
    assert words.format(decimals(srg.max() - srg.min())) in page


def test_losses_in_the_study_are_the_tables():
    table = pd.read_csv(RESULTS / "study/settings.csv").set_index(["family", "setting"])
    fixed = table.loc[("fractions", "fixed grid of 16")]
    page = " ".join((ROOT / "docs/study-relaxation.md").read_text().split())
    interval = f"{decimals(-fixed.difference)} [{decimals(-fixed.difference_high)}, {decimals(-fixed.difference_low)}]"
    assert f"fixed grid of 16 loses {interval}" in page
    assert f"eight lose {decimals(-table.loc[('fractions', '8 per direction')].difference)}" in page
    coarse = sorted(-table.loc[("grid", name)].difference for name in ("7 to 7", "7 to 14"))
    assert f"7–14 lose {decimals(coarse[0])}–{decimals(coarse[1])}" in page


def test_ratios_of_the_ranking_page_are_the_tables():
    table = pd.read_csv(RESULTS / "bench/ranking.csv")
    page = " ".join((ROOT / "docs/ranking.md").read_text().split())
    at = table[(table.cells == 784) & (table.tau == table.tau.min())].set_index("method")
    for method in ("soft_topk", "lapsum", "transport"):
        time = at.seconds["gumbel_sinkhorn"] / at.seconds[method]
        memory = at.peak_mb["gumbel_sinkhorn"] / at.peak_mb[method]
        assert f"| `{method}` | {time:,.0f}× | {memory:,.0f}× |" in page
    pixels = table[(table.cells == 50176) & (table.tau == table.tau.min())].set_index("method")
    for method in ("soft_topk", "transport"):
        assert pixels.seconds[method] < 1
        assert pixels.peak_mb[method] < 300
