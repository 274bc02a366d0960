"""`aha run`: DVC with this interpreter's environment first on the PATH."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

GRACE = 30  # seconds between the ways to end DVC and the stage that it runs


def repro(stage: str | None, force: bool) -> int:
    """Bring a stage, or all, up to date; returns 0, 1 for an error, 130 for an interruption."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "DVC_NO_ANALYTICS": "1",
    }
    command = [sys.executable, "-m", "dvc", "repro", *(["--force"] if force else []), *([stage] if stage else [])]
    running = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        code = running.wait()
        return code if code in (0, 130) else 1
    except KeyboardInterrupt:
        end(running)
        return 130


def end(running: subprocess.Popen[bytes]) -> None:
    """Interrupt a process and all of its session, then more firmly: DVC by itself would leave its stage behind."""
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C is more firmly, too
            running.wait(GRACE)
            return
