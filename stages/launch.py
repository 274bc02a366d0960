"""Where training runs: in this process, under torchrun, or on Ray Train workers. The only module that imports Ray.

Every way calls `work(job, runtime)`. Checkpoints are kept under `<state>/training/<digest>`; the digest covers
parameters, data, target and training code, so the same command continues a killed run and any change starts anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import aha_core
from aha_core.config import Params
from aha_core.data.dataset import PreparedImages
from aha_core.data.labels import label_map
from aha_core.errors import AhaError, ResourceError
from aha_core.files import atomic_path
from aha_core.targets import Target
from aha_core.training import LocalRuntime, Row, train

TRAINING_SECTIONS = {"seed", "data", "perturbation", "explainer", "ranking", "objective", "train"}
TRAINING_CODE = (
    "training.py", "batches.py", "objective.py", "masked_passes.py", "precision.py", "perturbation.py", "targets.py",
    "data/dataset.py",
)  # fmt: skip
FINAL = "final.pt"


@dataclass(frozen=True)
class Job:
    """Picklable description of a training run. Paths are absolute: workers have other working directories."""

    params: Params
    data: str
    target: str
    storage: str
    device: str
    threads: int


def job_name(params: Params, data: Path, target: Path, backbone: Path | None) -> str:
    """Digest of everything that determines the trained weights; `backbone` is the file of a foreign one."""
    digest = hashlib.sha256()
    digest.update(json.dumps(params.model_dump(mode="json", include=TRAINING_SECTIONS), sort_keys=True).encode())
    package = Path(aha_core.__file__).parent
    code = [package / name for name in TRAINING_CODE]
    code += [file for part in ("classifiers", "explainer", "ranking") for file in sorted((package / part).glob("*.py"))]
    weights = [target / "model.safetensors"] + ([backbone] if backbone else [])
    for file in [data / "manifest.json", target / "target.json", *weights, *code]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def work(job: Job, runtime: Any, on_step: Callable[[int], None] = lambda step: None) -> bytes:
    """Build target and data in this process and train; returns the final state."""
    torch.set_num_threads(job.threads)
    target = Target.load(Path(job.target))
    dataset = PreparedImages(Path(job.data), "train", job.params.train.augment)
    labels = label_map(dataset.class_names, target.num_classes)
    return train(job.params, target, dataset, labels, runtime, on_step).to_bytes()


def fit(job: Job, workers: int, on_row: Callable[[Row], None], on_step: Callable[[int], None]) -> bytes | None:
    """Train to the end, wherever the last attempt stopped.

    Returns:
        The final training state, or None on the ranks of torchrun that have nothing to write.
    """
    if dist.is_torchelastic_launched():
        return _torchrun(job, on_row, on_step)
    if workers == 0:
        return _local(job, on_row, on_step)
    return _ray(job, workers, on_row)


def _local(job: Job, on_row: Callable[[Row], None], on_step: Callable[[int], None]) -> bytes:
    checkpoint = Path(job.storage) / "checkpoint.pt"
    runtime = LocalRuntime(
        device=torch.device(job.device),
        load=lambda: checkpoint.read_bytes() if checkpoint.is_file() else None,
        save=lambda state: _write(checkpoint, state),
        on_report=on_row,
    )
    return work(job, runtime, on_step)


def _write(file: Path, content: bytes) -> None:
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


def _torchrun(job: Job, on_row: Callable[[Row], None], on_step: Callable[[int], None]) -> bytes | None:
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
                    _write(checkpoint, state)
                on_row(row)

        runtime = DistributedRuntime(device, lambda: checkpoint.read_bytes() if checkpoint.is_file() else None, deliver)
        state = work(job, runtime, on_step if rank == 0 else lambda step: None)
        dist.barrier()
        return state if rank == 0 else None
    finally:
        dist.destroy_process_group()


def _ray(job: Job, workers: int, on_row: Callable[[Row], None]) -> bytes:
    """Ray Train V2 on a private local cluster, or on the running one that RAY_ADDRESS names."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    import ray
    from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    storage = Path(job.storage)
    curve = storage / "curve.jsonl"
    storage.mkdir(parents=True, exist_ok=True)
    address = os.environ.get("RAY_ADDRESS", "local")
    gpu = job.device == "cuda"
    cluster: dict[str, Any] = {"num_cpus": workers * job.threads + 1} if address == "local" else {}
    package_root = str(Path(aha_core.__file__).resolve().parents[1])
    search_path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    ray.init(
        address=address, log_to_driver=False, include_dashboard=False if address == "local" else None,
        runtime_env={"env_vars": {"PYTHONPATH": search_path, "OMP_NUM_THREADS": str(job.threads)}},
        logging_level="ERROR", configure_logging=True, **cluster,
    )  # fmt: skip
    if address != "local":
        _refuse_local_store_on_cluster(ray)

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

        work(config["job"], DistributedRuntime(ray_torch.get_device(), load, deliver))

    trainer = TorchTrainer(
        loop,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": job.threads} | ({"GPU": 1} if gpu else {})
        ),
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
    finally:
        ray.shutdown()
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

    def __init__(self, file: Path, on_row: Callable[[Row], None], every_seconds: float = 0.5) -> None:
        self.file, self.on_row, self.every = file, on_row, every_seconds
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
        while not self.done.wait(self.every):
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
    failures = getattr(error, "worker_failures", {}) or {}
    for failure in failures.values():
        inner: BaseException | None = failure
        while inner is not None:
            if isinstance(inner, AhaError):
                return inner
            inner = getattr(inner, "cause", None) or inner.__cause__
    return error


def _refuse_local_store_on_cluster(ray: Any) -> None:
    """Checkpoints and data must be visible to every node: local folders are not."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) > 1 and not os.environ.get("AHA_SHARED_STORAGE"):
        raise ResourceError(
            f"the Ray cluster has {len(nodes)} nodes: the checkout must be on storage that all of them mount; "
            "if it is, export AHA_SHARED_STORAGE=1"
        )
