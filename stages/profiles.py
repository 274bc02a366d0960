"""Ready parameter files in `configs/`: list them, copy one over params.yaml."""

from __future__ import annotations

import difflib
from pathlib import Path

from aha_core.config import load_params
from aha_core.errors import ConfigError
from aha_core.files import atomic_text

FOLDER = "configs"


def profiles(root: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted((root / FOLDER).glob("*.yaml"))}


def table(root: Path) -> str:
    """One line per profile: name and the first comment of the file; * marks the active one."""
    known = profiles(root)
    if not known:
        raise ConfigError(f"no {FOLDER}/ here; run `aha profile` in the checkout")
    active = root / "params.yaml"
    content = active.read_text() if active.is_file() else None
    width = max(map(len, known))
    return "\n".join(
        f"{'*' if file.read_text() == content else ' '} {name:<{width}}  {_title(file)}" for name, file in known.items()
    )


def activate(root: Path, name: str) -> str:
    """Validate the profile and copy it over params.yaml.

    Raises ConfigError for an unknown profile (with near names).
    """
    known = profiles(root)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"no profile {name!r}; {f'did you mean {near[0]}?' if near else 'known: ' + ', '.join(known)}"
        )
    load_params(known[name])
    atomic_text(root / "params.yaml", known[name].read_text())
    return f"params.yaml is now the profile {name}: {_title(known[name])}"


def _title(file: Path) -> str:
    first = file.read_text().splitlines()[0]
    return first.removeprefix("#").strip()
