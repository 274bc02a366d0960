"""Training and accuracy of the classifier that is explained, for data without pretrained weights.

Training removes random regions (`remove_regions`), because deletion and insertion scores need a classifier that knows
images with holes: without it a score drops because an image looks odd, not because its evidence is gone.
The label is kept, so the prediction learns what the visible part tells, down to "nothing" for an empty image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from aha_core.config import TargetTrainConfig
from aha_core.data.dataset import PreparedImages
from aha_core.data.prepared import Progress, silent
from aha_core.targets import Target

_MEMORY = 2 * 1024**3  # bytes of uint8 images that are kept in memory
_WARMUP = 0.05  # share of the steps
_RAMP = 0.4  # share of the steps until regions are removed with full probability: first learn whole objects
_SMOOTHING = 0.05
_THRESHOLD = 1.1  # above 1, so that every eleventh changed image is removed entirely
_CLIP = 1.0

Fetch = Callable[[Int64[Tensor, " B"]], UInt8[Tensor, "B 3 S S"]]


def train_classifier(
    model: nn.Module,
    train: PreparedImages,
    val: PreparedImages,
    config: TargetTrainConfig,
    seed: int,
    device: torch.device | str,
    threads: int,
    on_epoch: Callable[[dict[str, Any]], None],
) -> None:
    """Train a timm model in place; it ends with the weights of its best validation epoch.

    AdamW, linear warm-up and cosine decay, label smoothing, random flips, shifts, zooms and removed regions.

    Args:
        model: takes images normalised by its own `pretrained_cfg`; as many logits as classes.
        train: images to learn from.
        val: images that choose the epoch.
        config: section `target.train`.
        seed: of order, augmentation and dropout.
        device: where to train.
        threads: CPU threads, 0 = as they are.
        on_epoch: called with epoch, epochs, loss, lr and val_accuracy after each epoch.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _train(model.to(device), train, val, config, seed, torch.device(device), on_epoch)
    finally:
        torch.set_num_threads(before)
        model.eval()


def _batches(order: Int64[Tensor, "N"], size: int) -> list[Int64[Tensor, "B"]]:
    """Batches of this size and the rest; a single image joins the batch before it, for batch norms without places."""
    found = list(order.split(size))
    return [*found[:-2], torch.cat(found[-2:])] if len(found) > 1 and len(found[-1]) == 1 else found


def _train(
    model: nn.Module,
    train: PreparedImages,
    val: PreparedImages,
    config: TargetTrainConfig,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[dict[str, Any]], None],
) -> None:
    generator = torch.Generator().manual_seed(seed)
    fetch, fetch_val = _in_memory(train), _in_memory(val)
    steps = config.epochs * len(_batches(torch.arange(len(train)), config.batch_size))
    optimiser = torch.optim.AdamW(_decay_groups(model, config.weight_decay), lr=config.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warmup_cosine(steps))
    best_accuracy, best_state = -1.0, copy.deepcopy(model.state_dict())
    for epoch in range(1, config.epochs + 1):
        model.train()
        total = 0.0
        order = torch.randperm(len(train), generator=generator)
        for indices in _batches(order, config.batch_size):
            x = augment(fetch(indices).float() / 255, generator)
            ramp = min(1.0, schedule.last_epoch / (_RAMP * steps))
            x = remove_regions(x, ramp * config.erase, generator)
            labels = train.labels[indices].to(device)
            logits = model(_normalise(x.to(device), model))
            loss = F.cross_entropy(logits, labels, label_smoothing=_SMOOTHING)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(indices)
        accuracy = _top1(model, fetch_val, val.labels, config.batch_size, device)
        if accuracy > best_accuracy:
            best_accuracy, best_state = accuracy, copy.deepcopy(model.state_dict())
        rate = schedule.get_last_lr()[0]
        on_epoch(
            {"epoch": epoch, "epochs": config.epochs, "loss": total / len(train), "lr": rate, "val_accuracy": accuracy}
        )
    model.load_state_dict(best_state)


def augment(x: Float[Tensor, "B 3 S S"], generator: torch.Generator) -> Float[Tensor, "B 3 S S"]:
    """Random horizontal flips, zooms by 0.8 to 1.25 and shifts by up to an eighth of the side; edges are mirrored."""
    draws = torch.rand(4, len(x), generator=generator)
    zoom = 0.8 * (1.25 / 0.8) ** draws[0]
    flip = (draws[1] < 0.5).float() * 2 - 1
    shift = (draws[2:] - 0.5) * 0.5  # in units of half the side
    zero = torch.zeros_like(zoom)
    rows = [torch.stack([flip / zoom, zero, shift[0]], dim=1), torch.stack([zero, 1 / zoom, shift[1]], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def remove_regions(
    x: Float[Tensor, "B 3 S S"], probability: float, generator: torch.Generator
) -> Float[Tensor, "B 3 S S"]:
    """Replace a random share of some images by black, a random colour, or a blurred copy.

    Removed is where random values in [0, 1] on a grid of 3 to 10 cells a side are below a threshold that is uniform
    in [0, 1.1] for each image: all shares occur, and the empty image. Half of the batches have square cells, half
    smooth blobs.

    Args:
        x: images in [0, 1].
        probability: of an image to be changed.
        generator: all randomness.
    """
    draws = torch.rand(3, len(x), 1, 1, 1, generator=generator)
    cells, smooth, grain = (
        int(torch.randint(low, high, (), generator=generator)) for low, high in ((3, 11), (0, 2), (1, 5))
    )
    values = torch.rand(len(x), 1, cells, cells, generator=generator)
    size = list(x.shape[2:])
    values = F.interpolate(values, size, mode="bicubic" if smooth else "nearest")
    colour = torch.rand(len(x), 3, 1, 1, generator=generator)
    blurred = F.interpolate(F.adaptive_avg_pool2d(x, grain), size, mode="bilinear")
    kind = (draws[0] * 3).long()
    fill = torch.where(kind == 0, 0.0, torch.where(kind == 1, colour, blurred))
    removed = (values < _THRESHOLD * draws[1]) & (draws[2] < probability)
    return torch.where(removed, fill, x)


@torch.no_grad()
def accuracy(
    target: Target,
    dataset: PreparedImages,
    label_map: Sequence[int],
    batch_size: int,
    device: torch.device | str,
    progress: Progress = silent,
) -> dict[str, Any]:
    """How well the target does on labelled images.

    Args:
        target: the classifier.
        dataset: images and labels.
        label_map: the target's logit index of each class of the data (`aha_core.data.label_map`).
        batch_size: images per forward pass.
        device: where the target is.
        progress: display of the loop.

    Returns:
        images; top1; top5 for more than five classes; confidence: mean probability of the predicted class; per_class:
        top-1 share by class name (of the data), for classes with images.
    """
    wanted = torch.tensor(list(label_map))[dataset.labels]
    ranked, confidence = [], []
    batches = torch.arange(len(dataset)).split(batch_size)
    for indices in progress(batches, len(batches), "accuracy"):
        images, _ = dataset.batch(indices.tolist())
        probabilities = target.probabilities(images.to(device).float() / 255).cpu()
        top = probabilities.topk(min(5, target.num_classes), dim=1)
        ranked.append(top.indices)
        confidence.append(top.values[:, 0])
    hits = torch.cat(ranked) == wanted[:, None]
    first = hits[:, 0].float()
    facts: dict[str, Any] = {"images": len(dataset), "top1": first.mean().item()}
    if target.num_classes > 5:
        facts["top5"] = hits.any(dim=1).float().mean().item()
    facts["confidence"] = torch.cat(confidence).mean().item()
    facts["per_class"] = {
        name: first[dataset.labels == label].mean().item()
        for label, name in enumerate(dataset.class_names)
        if (dataset.labels == label).any()
    }
    return facts


def _in_memory(dataset: PreparedImages) -> Fetch:
    """Access to images by index: from one tensor when they fit into memory, else from the disk."""
    side = dataset.image_size
    if len(dataset) * 3 * side * side > _MEMORY:
        return lambda indices: dataset.batch(indices.tolist())[0]
    images = torch.empty(len(dataset), 3, side, side, dtype=torch.uint8)
    for i in range(len(dataset)):
        images[i] = dataset.image(i)
    return lambda indices: images[indices]


@torch.no_grad()
def _top1(model: nn.Module, fetch: Fetch, labels: Tensor, batch_size: int, device: torch.device) -> float:
    model.eval()
    hits = 0
    for indices in torch.arange(len(labels)).split(batch_size):
        x = fetch(indices).to(device).float() / 255
        hits += int((model(_normalise(x, model)).argmax(dim=1).cpu() == labels[indices]).sum())
    return hits / len(labels)


def _normalise(x: Float[Tensor, "B 3 S S"], model: Any) -> Float[Tensor, "B 3 S S"]:
    mean, std = (torch.tensor(model.pretrained_cfg[key], device=x.device).view(3, 1, 1) for key in ("mean", "std"))
    return (x - mean) / std


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _warmup_cosine(steps: int) -> Callable[[int], float]:
    warmup = max(1, round(_WARMUP * steps))
    return lambda step: (
        (step + 1) / warmup
        if step < warmup
        else 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    )
