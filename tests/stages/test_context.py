"""Resources of an invocation: threads by the cores that the process may use, divided among the workers."""

import os

import pytest

from stages.context import Context


@pytest.mark.parametrize(
    ("cores", "threads", "workers", "each", "alone"),
    [(8, 0, 0, 8, 8), (8, 0, 3, 2, 8), (1, 0, 4, 1, 1), (8, 5, 4, 5, 5)],
)
def test_threads(workspace, change, monkeypatch, cores, threads, workers, each, alone):
    change("resources", threads=threads, workers=workers)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    ctx = Context.create(workspace, device="cpu")
    assert (ctx.threads, ctx.cores) == (each, alone)


def test_threads_where_the_system_does_not_say_which_cores(workspace, change, monkeypatch):
    change("resources", threads=0, workers=2)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    ctx = Context.create(workspace, device="cpu")
    assert (ctx.threads, ctx.cores) == (3, 6)
