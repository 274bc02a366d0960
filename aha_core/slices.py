"""Scores of parts of the images: by confidence, correctness, class, object size, or any other column.

Nothing is filtered from the main table (the contract); a slice shows what a filter would have hidden. A numeric column
with more than `FEW` values is cut at its terciles over images, so that every slice holds about a third of them; other
columns are cut by value.
"""

from __future__ import annotations

import pandas as pd

from aha_core.errors import ConfigError
from aha_core.metrics import bootstrap_ci
from aha_core.summary import SCORES

FEW = 6


def with_facts(rows: pd.DataFrame, localisation: pd.DataFrame | None) -> pd.DataFrame:
    """Rows with the columns that slices are made of: confidence, correct, and with masks object_size, off_centre.

    An image without a mask has neither of the two.
    """
    table = rows.assign(confidence=rows["probability"], correct=rows["class"] == rows["label"])
    if localisation is None:
        return table
    places = localisation.drop_duplicates(["index", "role"]).set_index(["index", "role"])
    known = table.join(places[["area", "off_centre"]], on=["index", "role"])
    known["off_centre"] = (known["off_centre"] == 1).where(known["off_centre"].notna())
    return known.rename(columns={"area": "object_size"})


def slice_labels(table: pd.DataFrame, column: str) -> pd.Series:
    """The slice of each row, as text. Raises ConfigError for an unknown column."""
    if column not in table:
        raise ConfigError(
            f"evaluate.slices: no column {column!r}; with this data: {', '.join(sorted(map(str, table.columns)))}"
        )
    values = table[column]
    if not pd.api.types.is_float_dtype(values) or values.nunique() <= FEW:
        return values.astype(str)
    per_image = table.drop_duplicates("index")[column]
    low, high = (float(per_image.quantile(share)) for share in (1 / 3, 2 / 3))
    names = [f"up to {low:.3g}", f"{low:.3g} to {high:.3g}", f"above {high:.3g}"]
    return pd.Series([names[int(v > low) + int(v > high)] for v in values], index=table.index)


def slice_scores(table: pd.DataFrame, column: str, resamples: int, seed: int) -> pd.DataFrame:
    """One row per slice and method: number of images, mean deletion, insertion, SRG, and the SRG's 95 % interval.

    Args:
        table: rows of one class role (`with_facts`); references are averaged per image first, images without a value
            in the column are left out.
    """
    table = table[table[column].notna()] if column in table else table
    labelled = table.assign(slice=slice_labels(table, column))
    images = labelled.groupby(["slice", "method", "index"], sort=False)[list(SCORES)].mean().reset_index()
    found = []
    for (name, method), own in images.groupby(["slice", "method"], sort=False):
        interval = bootstrap_ci(own["srg"], resamples, seed)
        found.append(
            {"column": column, "slice": name, "method": method, "images": interval.n}
            | {score: own[score].mean() for score in SCORES}
            | {"srg_low": interval.low, "srg_high": interval.high}
        )
    return pd.DataFrame(found).round(4)
