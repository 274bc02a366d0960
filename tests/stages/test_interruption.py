"""`aha run`: what it starts ends with it."""

import os
import subprocess
import sys
import time

import pytest

from stages import pipeline

STAGE = "import signal, time; signal.signal(signal.SIGINT, {how}); print('on', flush=True); time.sleep(600)"
DVC = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as DVC does while a stage runs
sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]]).returncode != 0)
"""


@pytest.mark.parametrize("how", ["signal.default_int_handler", "signal.SIG_IGN"])
def test_the_stage_ends_with_dvc(monkeypatch, how):
    monkeypatch.setattr(pipeline, "GRACE", 3)
    command = [sys.executable, "-c", DVC, STAGE.format(how=how)]
    running = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with running.stdout as stream:
        assert stream.readline() == b"on\n"
        pipeline.end(running)
        assert stream.read() == b"", "the pipe ends when nobody has it any more"
    assert running.returncode != 0
    with pytest.raises(ProcessLookupError):
        while True:  # until init has taken the stage
            os.killpg(running.pid, 0)
            time.sleep(0.01)


def test_interruption_ends_dvc_and_is_no_error_of_the_user(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def interrupted(self, timeout=None):
        started.append(self)
        monkeypatch.undo()
        raise KeyboardInterrupt

    started = []
    monkeypatch.setattr(pipeline.subprocess.Popen, "wait", interrupted)
    assert pipeline.repro(None, force=False) == 130
    assert started[0].poll() is not None, "DVC has ended"


@pytest.mark.parametrize(("before", "after"), [("SIG_DFL", "default_int_handler"), ("SIG_IGN", "SIG_IGN")])
def test_a_closed_terminal_interrupts_except_under_nohup(before, after):
    script = f"""
import signal
from stages import cli
signal.signal(signal.SIGHUP, signal.{before})
cli._guarded(["--help"])
assert signal.getsignal(signal.SIGHUP) == signal.{after}, signal.getsignal(signal.SIGHUP)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
