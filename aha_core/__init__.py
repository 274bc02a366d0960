"""AHA: an explainer network that ranks every pixel by how much a frozen image classifier needs it.

`aha_core` is the library: tensors in, tensors out. It imports neither Ray nor MLflow nor DVC nor Typer;
the pipeline around it lives in `stages`.
"""

__version__ = "0.1.0"
