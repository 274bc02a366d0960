"""`aha run`: DVC with this interpreter's environment first on the PATH."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def repro(stage: str | None, force: bool) -> int:
    """Exit code of `dvc repro`."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "DVC_NO_ANALYTICS": "1",
    }
    command = [sys.executable, "-m", "dvc", "repro", *(["--force"] if force else []), *([stage] if stage else [])]
    try:
        return subprocess.run(command, env=environment).returncode
    except KeyboardInterrupt:
        return 130
