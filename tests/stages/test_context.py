"""Resources of an invocation: threads by the cores that the process may use, divided among the workers."""

import io
import os
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from aha_core.errors import ResourceError
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


def test_on_gpus_there_are_no_more_workers_than_gpus(workspace, change, monkeypatch):
    change("resources", workers=2, threads=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Context.create(workspace).workers == 1
    assert Context.create(workspace, workers=3).workers == 3, "a flag is an order, which Ray may refuse"
    assert Context.create(workspace, device="cpu").workers == 2
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert Context.create(workspace).workers == 2


def test_torchrun_says_how_many_workers_there_are(workspace, change, monkeypatch):
    change("resources", workers=2, threads=0)
    monkeypatch.setattr("stages.context.usable_cores", lambda: 16)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    ctx = Context.create(workspace, device="cpu")
    assert (ctx.workers, ctx.threads) == (8, 4)


@pytest.mark.parametrize("device", ["gpu", "cuda:0", "mps"])
def test_devices_that_are_none_of_ours(workspace, device):
    with pytest.raises(ResourceError, match=f"--device '{device}': expected auto, cpu or cuda"):
        Context.create(workspace, device=device)


def test_what_is_said_is_no_markup(workspace):
    stream = io.StringIO()
    ctx = replace(Context.create(workspace, device="cpu"), console=Console(file=stream, width=200))
    ctx.say("a [final].jpg of [/b] :smile:")
    ctx.say_skipped("x[/b].jpg", "[red]")
    assert stream.getvalue() == "a [final].jpg of [/b] :smile:\nskipped x[/b].jpg: [red]\n"


def test_threads_where_the_system_does_not_say_which_cores(workspace, change, monkeypatch):
    change("resources", threads=0, workers=2)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    ctx = Context.create(workspace, device="cpu")
    assert (ctx.threads, ctx.cores) == (3, 6)
