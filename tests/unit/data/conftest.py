from __future__ import annotations

from pathlib import Path

import pytest
from sample_images import write_image


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Two classes of eight images."""
    for index in range(8):
        for label, name in enumerate(("cat", "dog")):
            write_image(tmp_path / "images" / name / f"{index}.png", seed=10 * index + label)
    return tmp_path / "images"
