"""Tables from a summary: every number in its place, a dash where there is none."""

from aha_core.report.tables import markdown, summary_tables


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 4}


def scores(srg: float, **more) -> dict:
    return {name: interval(value) for name, value in (("srg", srg), ("deletion", 0.2), ("insertion", srg + 0.2))} | more


GAP = {"aha_t0_minus_this": {"mean": 0.3, "low": 0.2, "high": 0.4, "effect": None, "n": 4, "p_holm": 0.0125}}
SUMMARY = {
    "scores": {
        "predicted": {"aha_t0": scores(0.5, saco=interval(0.6)), "rise": scores(0.2, saco=interval(0.1), **GAP)}
    },
    "ranks": {
        "methods": {
            "aha_t0": {"mean_rank": 1.1, "rank": 1.0, "low": 1.0, "high": 1.0, "first": 1.0},
            "rise": {"mean_rank": 1.9, "rank": 2.0, "low": 1.5, "high": 2.0, "first": 0.0},
        }
    },
    "reference_free": {"rise": {"pos": interval(12.34)}},
    "localisation": {"rise": {"energy": interval(0.4), "off_centre": {"energy": interval(0.3)}}},
    "checks": {
        "aha": {"grid_2x2": interval(0.7), "spearman": {"head": interval(0.9), "stem": interval(0.1)}},
        "rise": {"failed": "out | of memory"},
    },
    "passes_per_map": {"rise": {"forward": 400.0, "gradients": 0.0}},
}


def cells(tables, name: str) -> dict[str, tuple[str, ...]]:
    return dict(next(table for table in tables if table.id == name).rows)


def test_tables():
    tables = summary_tables(SUMMARY, "predicted", ["aha_t0", "rise"])
    assert [table.id for table in tables] == ["statistics", "measures", "localisation", "off-centre", "checks", "cost"]
    assert all(len(row) == len(table.columns) for table in tables for _, row in table.rows)
    main = cells(tables, "statistics")
    assert main["RISE"][0] == "0.200 [0.100, 0.300]"
    assert main["RISE"][3:] == ("+0.300", "0.013", "–", "2 [1.5, 2]", "0%")
    assert main["AHA (one pass)"][3:] == ("–", "–", "–", "1 [1, 1]", "100%")
    assert cells(tables, "measures") == {
        "AHA (one pass)": ("–", "0.600 [0.500, 0.700]"),
        "RISE": ("12.3 [12.2, 12.4]", "0.100 [0.000, 0.200]"),
    }
    assert cells(tables, "off-centre") == {"RISE": ("0.300 [0.200, 0.400]",)}
    assert cells(tables, "checks")["AHA"] == ("0.700 [0.600, 0.800]", "0.100 [0.000, 0.200]", "–", "")
    assert cells(tables, "checks")["RISE"][-1] == "out | of memory"
    assert cells(tables, "cost") == {"RISE": ("400", "0")}


def test_tables_without_numbers_are_left_out():
    bare = {"scores": {"predicted": {"rise": scores(0.2)}}, "ranks": {"methods": {}}}
    assert [table.id for table in summary_tables(bare, "predicted", ["rise"])] == ["statistics"]


def test_markdown():
    text = markdown(summary_tables(SUMMARY, "predicted", ["aha_t0", "rise"]), ["Chefer is not applicable."])
    lines = text.splitlines()
    assert "## Statistics" in lines and lines[-1] == "- Chefer is not applicable."
    assert "| RISE | 400 | 0 |" in lines
    assert "out \\| of memory" in text
