"""AHA: an explainer network that ranks every pixel by how much a frozen image classifier needs it.

`aha_core` is the library: tensors in, tensors out. It imports neither Ray nor MLflow nor DVC nor Typer;
the pipeline around it lives in `stages`. The names below are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aha_core.attribution import Explainer as Explainer
    from aha_core.errors import AhaError as AhaError
    from aha_core.figures.overlay import overlay as overlay
    from aha_core.figures.show import show as show

__version__ = "0.1.0"
__all__ = ["AhaError", "Explainer", "overlay", "show"]
_HOME = {
    "AhaError": "aha_core.errors",
    "Explainer": "aha_core.attribution",
    "overlay": "aha_core.figures.overlay",
    "show": "aha_core.figures.show",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'aha_core' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
