"""One graph of target and explainer, for programs without this library or without Python: ONNX, or torch.export.

    images Float[B 3 S S] in [0, 1], classes Int64[B]  ->  maps Float[B 1 S S], probabilities Float[B Y]

    c = classes, or argmax of the probabilities where classes = -1;   maps = z(explainer(images, c))

with the same z = (A - mean) / std as `Explainer.attribute`. The batch is dynamic. Class names and image size go along:
in ONNX as the model's metadata, in torch.export's file as the extra file aha.json. What was written is run against the
library before it is handed over.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aha_core.attribution import Explainer
from aha_core.errors import AhaError, AttributionError
from aha_core.explainer.dpt import DptExplainer
from aha_core.explainer.model import CONTRAST
from aha_core.files import atomic_path
from aha_core.ranking import standardise
from aha_core.targets import contrast_rows

Format = Literal["onnx", "torch-export"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
TOLERANCE = 1e-4  # of maps, whose standard deviation is 1, and of probabilities
PREDICTED = -1
BATCHES = (1, 3)  # that are compared with the library
_INPUTS, _OUTPUTS = ["images", "classes"], ["maps", "probabilities"]

Run = Callable[[Tensor, Tensor], tuple[np.ndarray, np.ndarray]]


class Graph(nn.Module):
    """Target and explainer as one module; see the module's formula.

    Without what `ExplainerNetwork.inputs` does for training: there, sizes become Python numbers, which fixes the batch,
    and the classifier's rows may follow from an unusual head by computations that no graph needs to repeat: here, they
    are a table.
    """

    rows: Tensor | None

    def __init__(self, explainer: Explainer) -> None:
        super().__init__()
        self.target, self.network = explainer.target, explainer.network
        self.levels = explainer.training.explainer.levels
        self.backbone = explainer.network.backbone if isinstance(explainer.network, DptExplainer) else None
        self.register_buffer("rows", explainer.target.classifier_weight if self.backbone is None else None)

    def forward(
        self, images: Float[Tensor, "B 3 S S"], classes: Int[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B 1 S S"], Float[Tensor, "B Y"]]:
        features = self.target.features(images, self.levels)
        probabilities = features.logits.float().softmax(dim=1)
        wanted = torch.where(classes < 0, probabilities.argmax(dim=1), classes)
        if self.backbone is not None:
            raw = self.network(images, self.backbone(images, self.network.depths), wanted)
        else:
            assert self.rows is not None
            rows = contrast_rows(self.rows, wanted, features.logits, CONTRAST)
            evidence = self.target.class_evidence(features, rows)
            raw = self.network(images, features.levels, features.final, rows, evidence)
        return standardise(raw), probabilities


@dataclass(frozen=True)
class Exported:
    """size: bytes; map_error, probability_error: largest difference to the library; latency: of one image, seconds, in
    the library and in the exported graph."""

    file: Path
    size: int
    map_error: float
    probability_error: float
    latency: tuple[float, float]


def export(explainer: Explainer, file: Path, kind: Format) -> Exported:
    """Write the graph, run it, and hand it over if it agrees with the library. The explainer moves to the CPU.

    Raises:
        AhaError: the packages for ONNX are not installed.
        AttributionError: torch cannot trace this target, or the graph's answers differ by more than 1e-4.
    """
    if kind == "onnx":
        _need_onnx()
    explainer.to("cpu")
    graph = Graph(explainer).eval()
    size = explainer.target.image_size
    example = torch.rand(2, 3, size, size), torch.tensor([PREDICTED, 0])
    batch = torch.export.Dim("batch")
    with torch.no_grad(), _quiet():
        try:
            program = torch.export.export(graph, example, dynamic_shapes={"images": {0: batch}, "classes": {0: batch}})
        except Exception as error:  # tracing may fail anywhere inside a model of unforeseen shape
            raise AttributionError(
                f"torch.export cannot trace {explainer.target.name} with a dynamic batch ({type(error).__name__}: "
                f"{str(error).splitlines()[0]})"
            ) from error
        facts = {
            "target": explainer.target.name, "image_size": size, "class_names": explainer.target.class_names,
            "explainer": explainer.training.explainer.kind,
        }  # fmt: skip
        with atomic_path(file) as temporary:
            if kind == "onnx":
                run = _onnx(program, example, temporary, facts)
            else:
                run = _torch_export(program, temporary, facts)
            map_error, probability_error = _differences(explainer, run)
            if not max(map_error, probability_error) <= TOLERANCE:  # NaN fails as well
                raise AttributionError(
                    f"the exported graph of {explainer.target.name} differs from the library by {map_error:.2g} in "
                    f"maps and {probability_error:.2g} in probabilities, more than {TOLERANCE:.0e}; nothing was written"
                )
        one = torch.rand(1, 3, size, size), torch.tensor([PREDICTED])
        latency = _latency(lambda: explainer.attribute(one[0])), _latency(lambda: run(*one))
    return Exported(file, file.stat().st_size, map_error, probability_error, latency)


def _onnx(program: Any, example: tuple[Tensor, Tensor], file: Path, facts: dict[str, Any]) -> Run:
    import onnxruntime

    made: Any = torch.onnx.export(
        program, example, dynamo=True, input_names=_INPUTS, output_names=_OUTPUTS, verbose=False
    )
    values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    made.model.metadata_props.update(values)
    made.save(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor, classes: Tensor) -> tuple[np.ndarray, np.ndarray]:
        maps, probabilities = session.run(_OUTPUTS, {"images": images.numpy(), "classes": classes.numpy()})
        return maps, probabilities

    return run


def _torch_export(program: Any, file: Path, facts: dict[str, Any]) -> Run:
    torch.export.save(program, file, extra_files={"aha.json": json.dumps(facts)})
    module = torch.export.load(file).module()

    def run(images: Tensor, classes: Tensor) -> tuple[np.ndarray, np.ndarray]:
        maps, probabilities = module(images, classes)
        return maps.numpy(), probabilities.numpy()

    return run


def _differences(explainer: Explainer, run: Run) -> tuple[float, float]:
    """Largest absolute differences of maps and probabilities, over batch sizes, given and predicted classes."""
    size, count = explainer.target.image_size, explainer.target.num_classes
    errors = []
    for seed, images in enumerate(BATCHES):
        x = torch.rand(images, 3, size, size, generator=torch.Generator().manual_seed(seed))
        classes = torch.arange(images) % count
        for wanted, known in ((classes, classes), (torch.full((images,), PREDICTED), None)):
            maps, probabilities = run(x, wanted)
            errors.append(
                (
                    float(np.abs(maps - explainer.attribute(x, known).numpy()).max()),
                    float(np.abs(probabilities - explainer.target.probabilities(x).numpy()).max()),
                )
            )
    largest = np.max(errors, axis=0)
    return float(largest[0]), float(largest[1])


def _latency(call: Callable[[], object], rounds: int = 5) -> float:
    """Median of some calls after a first one, seconds."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise AhaError(
            f"--format onnx needs the package {error.name}; pip install 'aha[export]', or use --format torch-export"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' own remarks."""
    import logging

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
