"""The printed contract names what a run measures, and where it saves."""

from aha_core.config import load_params
from aha_core.report.contract import contract_lines
from tests.conftest import ROOT


def lines(profile: str, **changes) -> str:
    params = load_params(ROOT / f"configs/{profile}.yaml")
    return "\n".join(contract_lines(params.evaluate.model_copy(update=changes), params.perturbation))


def test_every_measure_of_the_real_profile_is_printed():
    text = lines("vit-tiny-imagenet")
    for words in (
        "MAS:", "Gini:", "Grid pointing game (2 × 2", "Max-sensitivity: ", "over 10 small", "Sanity: ",
        "Rank accuracy:",
        "lime): scored on the first 64 images", "bf16 autocast",
        "Slow measures (POS/NEG, ROAD, SaCo", "Gaussian blur (kernel 37, σ 37 px", "2000 resamples",
    ):  # fmt: skip
        assert words in text, words


def test_what_a_run_leaves_out_is_not_printed():
    params = load_params(ROOT / "configs/vit-tiny-imagenet.yaml").evaluate
    slow = params.slow.model_copy(update={"methods": (), "measures": ()})
    checks = params.checks.model_copy(update={"methods": ()})
    bare = lines("vit-tiny-imagenet", measures=(), precision="fp32", slow=slow, checks=checks)
    for words in ("MAS:", "Grid pointing", "Slow methods", "autocast", "Sanity"):
        assert words not in bare, words
