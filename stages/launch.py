"""Processes beside this one: torchrun's ranks, Ray Train's workers, Ray's tasks. The only module that imports Ray.

Training and evaluation hand over what is to be done; here is only where it runs.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import aha_core
from aha_core.allocator import kept_memory
from aha_core.errors import AhaError, ResourceError
from aha_core.files import atomic_path
from aha_core.runtime import Row

FINAL = "final.pt"
POLL_SECONDS = 0.5  # between looks at the progress of other processes


class TrainingJob(Protocol):
    """A picklable training run: where its checkpoints lie, what a worker gets, and the work itself."""

    @property
    def storage(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def threads(self) -> int: ...

    def work(self, runtime: Any, on_step: Callable[[int], None] = ...) -> bytes: ...


def write_checkpoint(file: Path, content: bytes) -> None:
    with atomic_path(file) as temporary:
        temporary.write_bytes(content)


@dataclass
class DistributedRuntime:
    """torch.distributed is initialised: gradients are averaged by DistributedDataParallel."""

    device: torch.device
    load: Callable[[], bytes | None]
    deliver: Callable[[Row, bytes | None], None]

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def world(self) -> int:
        return dist.get_world_size()

    def wrap(self, module: nn.Module) -> nn.Module:
        # Depthwise kernels have ambiguous strides; the warning is about layout, not values.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)

    def mean(self, values: Tensor) -> Tensor:
        values = values.to(self.device)
        dist.all_reduce(values)
        return (values / self.world).cpu()

    def restore(self) -> bytes | None:
        return self.load()

    def report(self, row: Row, checkpoint: bytes | None) -> None:
        self.deliver(row, checkpoint)


def torchrun(job: TrainingJob, on_row: Callable[[Row], None], on_step: Callable[[int], None]) -> bytes | None:
    """One process of `torchrun -m stages train`: rank 0 writes the checkpoints and the curve."""
    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if job.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    checkpoint = Path(job.storage) / "checkpoint.pt"
    try:
        rank = dist.get_rank()

        def deliver(row: Row, state: bytes | None) -> None:
            if rank == 0:
                if state is not None:
                    write_checkpoint(checkpoint, state)
                on_row(row)

        runtime = DistributedRuntime(device, lambda: checkpoint.read_bytes() if checkpoint.is_file() else None, deliver)
        state = job.work(runtime, on_step if rank == 0 else lambda step: None)
        dist.barrier()
        return state if rank == 0 else None
    finally:
        dist.destroy_process_group()


@contextmanager
def _cluster(workers: int, threads: int) -> Iterator[Any]:
    """The module `ray`, connected to a private cluster on this machine, or to the running one that RAY_ADDRESS names.

    Raises ResourceError for several nodes without shared storage.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    import ray

    address = os.environ.get("RAY_ADDRESS", "local")
    cluster: dict[str, Any] = {"num_cpus": workers * threads + 1} if address == "local" else {}
    package_root = str(Path(aha_core.__file__).resolve().parents[1])
    search_path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    ray.init(
        address=address, log_to_driver=False, include_dashboard=False if address == "local" else None,
        runtime_env={"env_vars": {"PYTHONPATH": search_path, "OMP_NUM_THREADS": str(threads)} | kept_memory()},
        logging_level="ERROR", configure_logging=True, **cluster,
    )  # fmt: skip
    try:
        if address != "local":
            _refuse_local_store_on_cluster(ray)
        yield ray
    finally:
        ray.shutdown()


def spread(
    work: Callable[[int, int], None], workers: int, device: str, threads: int, on_wait: Callable[[], None]
) -> None:
    """Call work(rank, world) once for every rank, each in a Ray worker of its own.

    Args:
        work: picklable; a worker that dies is replaced twice, so it must be able to go on where it stopped.
        device: with "cuda" each worker gets a GPU; where there are fewer, ranks wait for their turn.
        threads: CPUs of each worker.
        on_wait: called in this process about every `POLL_SECONDS`.

    Raises:
        The error of the first worker that fails, ResourceError when workers die; the others are stopped.
    """
    with _cluster(workers, threads) as ray:

        def call(rank: int) -> None:
            work(rank, workers)

        task = ray.remote(num_cpus=threads, num_gpus=int(device == "cuda"), max_retries=2)(call)
        pending = [task.remote(rank) for rank in range(workers)]
        while pending:
            finished, pending = ray.wait(pending, timeout=POLL_SECONDS)
            on_wait()
            try:
                ray.get(finished)
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            except ray.exceptions.RayError as error:
                raise ResourceError(
                    f"a worker died ({type(error).__name__}), perhaps for want of memory; the same command continues, "
                    "with fewer --workers if need be"
                ) from error


def on_ray(job: TrainingJob, workers: int, on_row: Callable[[Row], None]) -> bytes:
    """Ray Train V2 on a private local cluster, or on the running one that RAY_ADDRESS names."""
    storage = Path(job.storage)
    curve = storage / "curve.jsonl"
    storage.mkdir(parents=True, exist_ok=True)
    each = {"CPU": job.threads} | ({"GPU": 1} if job.device == "cuda" else {})
    with _cluster(workers, job.threads) as ray:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if "GPU" in each and gpus < workers and "RAY_ADDRESS" not in os.environ:  # a cluster may grow, a machine not
            raise ResourceError(f"{workers} workers want a GPU each, this machine has {gpus}: --workers {max(gpus, 1)}")
        from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        def loop(config: dict[str, Any]) -> None:
            import ray.train.torch as ray_torch

            def load() -> bytes | None:
                saved = ray.train.get_checkpoint()
                if saved is None:
                    return None
                with saved.as_directory() as folder:
                    return (Path(folder) / FINAL).read_bytes()

            def deliver(row: Row, state: bytes | None) -> None:
                with tempfile.TemporaryDirectory() as folder:
                    if state is not None:
                        (Path(folder) / FINAL).write_bytes(state)
                    ray.train.report(dict(row), checkpoint=Checkpoint.from_directory(folder) if state else None)

            config["job"].work(DistributedRuntime(ray_torch.get_device(), load, deliver))

        trainer = TorchTrainer(
            loop,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu="GPU" in each, resources_per_worker=each),
            run_config=RunConfig(
                name="ray", storage_path=str(storage), checkpoint_config=CheckpointConfig(num_to_keep=2),
                failure_config=FailureConfig(max_failures=2), callbacks=[_curve_writer(curve)],
            ),
        )  # fmt: skip
        try:
            with _follow(curve, on_row):
                result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _cause(error) from error
        if result.checkpoint is None:
            raise ResourceError(f"Ray Train ended without a checkpoint in {storage}; run the same command again")
        with result.checkpoint.as_directory() as folder:
            return (Path(folder) / FINAL).read_bytes()


def _curve_writer(curve: Path) -> Any:
    """A Ray callback (it runs on the driver's node) that appends each reported row to a file."""
    from ray.train import UserCallback

    class CurveWriter(UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            with curve.open("a") as stream:
                stream.write(json.dumps(metrics[0]) + "\n")

    return CurveWriter()


class _follow:
    """Pass on each line that appears in a file while the block runs, and the rest at its end."""

    def __init__(self, file: Path, on_row: Callable[[Row], None]) -> None:
        self.file, self.on_row = file, on_row
        self.position = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> None:
        self.position = self.file.stat().st_size if self.file.exists() else 0
        self.thread.start()

    def __exit__(self, *exception: object) -> None:
        self.done.set()
        self.thread.join()
        self._pass_on()

    def _loop(self) -> None:
        while not self.done.wait(POLL_SECONDS):
            self._pass_on()

    def _pass_on(self) -> None:
        if not self.file.exists():
            return
        with self.file.open("rb") as stream:
            stream.seek(self.position)
            complete = stream.read().rpartition(b"\n")[0]
        if complete:
            self.position += len(complete) + 1
            for line in complete.splitlines():
                self.on_row(json.loads(line))


def _cause(error: BaseException) -> BaseException:
    """The workers' own error, where it is one that the user can fix."""
    failures = getattr(error, "worker_failures", {}) or {0: error}
    for failure in failures.values():
        inner: BaseException | None = failure
        while inner is not None:
            cause = getattr(inner, "cause", None)  # of Ray's wrappers, which also inherit from what they wrap
            if isinstance(inner, AhaError) and cause is None:
                return inner
            inner = cause or inner.__cause__
    return error


def _refuse_local_store_on_cluster(ray: Any) -> None:
    """Checkpoints and data must be visible to every node: local folders are not."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) > 1 and not os.environ.get("AHA_SHARED_STORAGE"):
        raise ResourceError(
            f"the Ray cluster has {len(nodes)} nodes: the checkout must be on storage that all of them mount; "
            "if it is, export AHA_SHARED_STORAGE=1"
        )
