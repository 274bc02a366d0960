"""Classes as people write them."""

import pytest

from aha_core.class_names import class_index
from aha_core.errors import AhaError
from aha_core.targets import Target, create_model


def target(names: list[str]) -> Target:
    return Target("resnet18", create_model("resnet18", len(names), 32), 32, names)


def test_by_name_or_by_index():
    shapes = target(["ring", "Blue_disc", "cross"])
    assert [class_index(one, shapes, "--class") for one in ("blue disc", "BLUE_DISC", "2", "ring")] == [1, 1, 2, 0]
    with pytest.raises(AhaError, match="--class 'rung' is not a class of resnet18; did you mean ring"):
        class_index("rung", shapes, "--class")
    with pytest.raises(AhaError, match=r"expected a class name or 0\.\.2"):
        class_index("3", shapes, "--class")


def test_a_name_of_digits_is_a_name():
    names = sorted(str(index) for index in range(12))  # as folders are sorted: 0, 1, 10, 11, 2, ...
    assert [names[class_index(one, target(names), "--class")] for one in ("2", "10", "11")] == ["2", "10", "11"]
