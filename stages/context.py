"""What every stage's `run(ctx)` gets: parameters, paths, resources, a console."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import Task as ProgressTask
from rich.text import Text

from aha_core.config import Params, Precision, load_params
from aha_core.errors import ResourceError
from stages.paths import Paths

if TYPE_CHECKING:  # torch is slow to import, and most commands' help needs none
    from aha_core.scoring import Scorer
    from aha_core.targets import Target

T = TypeVar("T")


class RateColumn(TextColumn):
    """Items per second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: ProgressTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g}/s" if speed else "", style="progress.data.speed")


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine's in a container with a CPU set or a batch job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Context:
    """One invocation of a stage."""

    paths: Paths
    params: Params
    workers: int
    device: str
    threads: int
    tracking_uri: str
    fresh: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True))

    @classmethod
    def create(
        cls,
        root: Path,
        params_file: Path | None = None,
        workers: int | None = None,
        device: str | None = None,
        tracking_uri: str | None = None,
        fresh: bool = False,
    ) -> Context:
        """Validate the parameters and settle the resources; flags win over the `resources` section.

        On GPUs there are at most as many of `resources.workers` as GPUs, unless RAY_ADDRESS names a cluster.

        Raises ConfigError for bad parameters, ResourceError for a device that is not there.
        """
        paths = Paths(root.resolve())
        params = load_params(params_file or paths.params)
        resources = params.resources
        where = _device(device or resources.device)
        if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun has started the workers
            workers, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        else:
            workers = here = _workers(resources.workers, where) if workers is None else workers
        threads = resources.threads or max(usable_cores() // max(here, 1), 1)
        return cls(paths, params, workers, where, threads, default_tracking_uri(paths, tracking_uri), fresh)

    @property
    def cores(self) -> int:
        """Threads of a stage that works in one process (training workers get `threads` each)."""
        return self.params.resources.threads or usable_cores()

    def use_all_cores(self) -> None:
        import torch

        torch.set_num_threads(self.cores)

    @property
    def scoring_threads(self) -> int:
        """Threads of a process that scores. They do not follow from the number of workers, since the rounding of sums
        depends on them: one on the CPU, where more workers are the way to use more cores.
        """
        return self.params.resources.threads or (1 if self.device == "cpu" else usable_cores())

    def scorer(self, target: Target, precision: Precision | None = None) -> Scorer:
        """The target's class probabilities as evaluation wants them; in another precision where one is given."""
        from aha_core.scoring import Scorer

        resources = self.params.resources
        precision = precision or self.params.evaluate.precision
        return Scorer(target.folded(), precision, resources.batch_size, resources.memory_gb)

    def progress(self, iterable: Iterable[T], total: int, description: str) -> Iterator[T]:
        """Yield the items behind a bar with rate and time left; silent when the output is not a terminal."""
        with self.bar() as bar:
            task = bar.add_task(description, total=total)
            for item in iterable:
                yield item
                bar.advance(task)

    def bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description:<12}"), BarColumn(bar_width=None), MofNCompleteColumn(), RateColumn(),
            TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal, expand=True,
        )  # fmt: skip

    def say(self, message: str) -> None:
        """A line as it is: names of files and classes may look like markup."""
        self.console.print(message, markup=False, emoji=False, highlight=False)

    def say_skipped(self, name: str, reason: str) -> None:
        self.console.print(Text.assemble(("skipped", "red"), f" {name}: {reason}"), highlight=False)


def default_tracking_uri(paths: Paths, flag: str | None = None) -> str:
    """The flag, else MLFLOW_TRACKING_URI, else a SQLite database beside the checkpoints (absolute)."""
    return flag or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.state / 'mlflow.db'}"


def _device(name: str) -> str:
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ResourceError(f"--device {name!r}: expected auto, cpu or cuda; CUDA_VISIBLE_DEVICES chooses among GPUs")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ResourceError("device cuda was asked for, but torch sees no GPU; use --device cpu")
    return name


def _workers(wanted: int, device: str) -> int:
    import torch

    alone = "RAY_ADDRESS" not in os.environ
    return min(wanted, torch.cuda.device_count()) if device == "cuda" and alone else wanted
