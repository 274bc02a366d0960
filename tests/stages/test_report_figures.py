"""Which methods the report's figures show."""

from stages.reporting.figures import CURVES, told_apart


def test_few_methods_are_all_shown():
    methods = ["aha_t0", "aha_t5", "rise", "centre", "random"]
    assert told_apart(methods) == methods


def test_of_many_baselines_the_best_and_the_floors_are_shown():
    baselines = [f"method_{place}" for place in range(20)]
    methods = ["aha_t0", "aha_hybrid", "aha_t3", *baselines[:15], "centre", *baselines[15:], "random"]
    assert told_apart(methods) == ["aha_t0", "aha_hybrid", "aha_t3", *baselines[:CURVES], "centre", "random"]
