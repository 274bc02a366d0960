"""From class folders to the target's logits: by name, by place, or WordNet ids by ImageNet's own order."""

from __future__ import annotations

import re
from collections import Counter

from timm.data import ImageNetInfo

from aha_core.errors import DataError

_WORDNET_ID = re.compile(r"n\d{8}")
IMAGENET_CLASSES = 1000


def label_map(class_names: list[str], target_names: list[str]) -> list[int]:
    """The target's logit index of each class of the data.

    Args:
        class_names: class names of the data, in label order.
        target_names: names of the target's Y logits, in their order.

    Returns:
        One index in [0, Y) per class: by name where the target has all of these names; else 0, 1, 2, … when the
        numbers agree; else by WordNet id for a target with ImageNet's 1000 classes.

    Raises:
        DataError: the classes cannot be matched.
    """
    num_classes, places = len(target_names), {name: place for place, name in enumerate(target_names)}
    if len(places) == num_classes and places.keys() >= set(class_names):
        return [places[name] for name in class_names]
    if len(class_names) == num_classes:
        return list(range(num_classes))
    if num_classes != IMAGENET_CLASSES or not wordnet_ids(class_names):
        raise DataError(
            f"the data has {len(class_names)} classes ({', '.join(class_names[:3])}, …), the target {num_classes}: "
            "expected equal numbers, the target's names, or WordNet ids (n01440764, …) with a target of ImageNet's "
            "1000 classes; set target.source: train, or rename the folders"
        )
    index = {name: place for place, name in enumerate(ImageNetInfo().label_names())}
    unknown = [name for name in class_names if name not in index]
    if unknown:
        raise DataError(f"not among ImageNet's 1000 classes: {', '.join(unknown[:5])}; remove or rename these folders")
    return [index[name] for name in class_names]


def wordnet_ids(class_names: list[str]) -> bool:
    """Whether all of these names are WordNet ids, like n01440764."""
    return all(_WORDNET_ID.fullmatch(name) for name in class_names)


def imagenet_class_names() -> list[str]:
    """Short, unique names of ImageNet's 1000 classes in logit order.

    The first WordNet lemma; where two classes share it (crane, maillot), its place in the logits follows.
    """
    short = [description.split(",")[0] for description in ImageNetInfo().label_descriptions()]
    count = Counter(short)
    return [name if count[name] == 1 else f"{name} ({place})" for place, name in enumerate(short)]


def display_names(class_names: list[str]) -> list[str]:
    """Class names for people: WordNet ids of ImageNet's 1000 classes become their short names."""
    names = dict(zip(ImageNetInfo().label_names(), imagenet_class_names(), strict=True))
    return [names.get(name, name) for name in class_names]
