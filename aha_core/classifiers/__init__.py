"""timm models as classifiers: building and loading them, reading their features, a zero-shot head."""
