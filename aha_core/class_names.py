"""Classes as people write them: by index or by name."""

from __future__ import annotations

import difflib

from aha_core.errors import AhaError
from aha_core.targets import Target


def class_index(name: str, target: Target, flag: str) -> int:
    """A class by name (case and spaces do not matter) or by index; a name of digits goes before the index.

    Args:
        flag: where the name was given, for messages.

    Raises AhaError with near names for an unknown one.
    """
    folded = {label.casefold().replace("_", " "): index for index, label in enumerate(target.class_names)}
    wanted = name.casefold().replace("_", " ")
    if wanted in folded:
        return folded[wanted]
    if name.isdigit() and int(name) < target.num_classes:
        return int(name)
    near = difflib.get_close_matches(wanted, folded, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"expected a class name or 0..{target.num_classes - 1}"
    raise AhaError(f"{flag} {name!r} is not a class of {target.name}; {hint}")
