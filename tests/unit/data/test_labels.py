"""Class folders to logits."""

from __future__ import annotations

import pytest

from aha_core.data.labels import display_names, imagenet_class_names, label_map
from aha_core.errors import DataError

IMAGENETTE = [
    "n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413", "n03445777",
    "n03888257",
]  # fmt: skip


def test_equal_numbers_map_one_to_one():
    assert label_map(["cat", "dog", "emu"], ["Katze", "Hund", "Emu"]) == [0, 1, 2]


def test_names_that_the_target_has_map_by_name():
    assert label_map(["ant", "cat", "dog"], ["cat", "dog", "ant"]) == [2, 0, 1]
    assert label_map(["cat", "dog"], ["dog", "ant", "cat"]) == [2, 0]
    assert label_map(["cat", "dog"], ["cat", "cat"]) == [0, 1]  # names that occur twice say nothing


def test_wordnet_ids_map_to_imagenet():
    assert label_map(IMAGENETTE, imagenet_class_names()) == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


def test_wordnet_ids_keep_their_own_order_when_the_numbers_agree():
    assert label_map(IMAGENETTE, list("abcdefghij")) == list(range(10))


def test_unmatched_classes_say_what_was_expected():
    with pytest.raises(DataError, match=r"2 classes \(cat, dog, …\), the target 1000: expected equal numbers"):
        label_map(["cat", "dog"], imagenet_class_names())
    with pytest.raises(DataError, match="the target 5"):
        label_map(IMAGENETTE, list("abcde"))
    with pytest.raises(DataError, match="not among ImageNet's 1000 classes: n99999999"):
        label_map(["n01440764", "n99999999"], imagenet_class_names())


def test_names_are_short_and_unique():
    names = imagenet_class_names()
    assert len(names) == len(set(names)) == 1000
    assert names[0] == "tench"
    assert (names[134], names[517]) == ("crane (134)", "crane (517)")
    assert display_names(["n01440764", "my cat"]) == ["tench", "my cat"]
