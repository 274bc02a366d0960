"""Freed tensors' pages stay with the process: no page faults where the same sizes are used again."""

import os
import platform
import subprocess
import sys

import pytest

from aha_core.allocator import kept_memory

FAULTS = """
import resource, sys, threading
import torch
from aha_core.allocator import keep_freed_memory

def work():
    def step():
        kept = [torch.zeros(10 * 2**18) for _ in range(8)]  # 8 x 10 MiB
        kept += [torch.zeros(12 * 2**20) for _ in range(2)]  # 2 x 48 MiB, above what glibc ever keeps by itself
    for _ in range(10):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

if sys.argv[1] == "call":
    print(int(keep_freed_memory()), end=' ')
if sys.argv[2] == "thread":
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""
KEPT = """
import timm, torch
from aha_core.allocator import keep_freed_memory
from aha_core.cost import measured
from aha_core.targets import Target

model = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=12, depth=1, num_heads=2, num_classes=2)
target = Target("vit", model, 32, ["a", "b"])
assert keep_freed_memory()
torch.ones(300, 1 << 18)  # 300 MiB, freed at once and kept
with measured(target) as cost:
    held = torch.ones(200, 1 << 18)
print(cost.peak_bytes)
"""
PAGES = 5 * 2 * 48 * 2**20 // 4096  # of the larger tensors in five steps


GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")


def printed(script: str, *arguments: str, **environment: str) -> list[int]:
    """The numbers that a process prints; of malloc's variables it has only these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=clean | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def faults(how: str, where: str, **environment: str) -> list[int]:
    """Whether the call succeeded, where it is made, and the page faults."""
    return printed(FAULTS, how, where, **environment)


@GLIBC
@pytest.mark.parametrize("where", ["main", "thread"])
def test_an_environment_keeps_memory_in_all_threads(where, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    (counted,) = faults("environment", where, **kept_memory())
    assert counted < PAGES / 2


@GLIBC
def test_a_call_keeps_that_of_the_main_thread():
    succeeded, counted = faults("call", "main")
    assert succeeded
    assert counted < PAGES / 2


@GLIBC
def test_the_users_own_settings_stay(monkeypatch):
    succeeded, counted = faults("call", "main", MALLOC_ARENA_MAX="2")
    assert not succeeded
    assert counted > PAGES / 2, "glibc by itself gives memory back"
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert kept_memory() == {}


@GLIBC
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this platform does not tell the peak")
def test_memory_that_is_kept_counts_where_it_is_used_again():
    (peak,) = printed(KEPT)
    assert 150e6 < peak < 400e6
