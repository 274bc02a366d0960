"""`aha explain`: overlay and raw map of one's own images with the trained explainer."""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from aha_core.attribution import Explainer
from aha_core.data.decode import read_image
from aha_core.errors import AhaError, AttributionError, DataError
from aha_core.figures import overlay
from aha_core.files import array_writer, atomic_path
from aha_core.targets import Target
from stages.context import Context


def run(ctx: Context, images: list[Path], out: Path, class_name: str | None, steps: int) -> int:
    """Write NAME_overlay.png and NAME_map.npy for each image; returns the number of unusable files."""
    ctx.use_all_cores()
    explainer = Explainer.load(ctx.paths.explainer, ctx.paths.target, ctx.params.refine).to(ctx.device)
    wanted = None if class_name is None else class_index(class_name, explainer.target)
    names = output_names(images)
    failed = 0
    for image in ctx.progress(images, len(images), "explain"):
        try:
            ctx.say(explain_one(explainer, image, out / names[image], wanted, steps, ctx.device))
        except (AttributionError, DataError) as error:
            ctx.say(f"[red]skipped[/red] {error}")
            failed += 1
    return failed


def explain_one(explainer: Explainer, file: Path, stem: Path, wanted: int | None, steps: int, device: str) -> str:
    """Explain one file; returns the line to print."""
    target = explainer.target
    original = transforms.pil_to_tensor(read_image(file))
    size = [target.image_size, target.image_size]
    x = transforms.resize(original, size, antialias=True)[None].to(device).float() / 255
    probabilities = target.probabilities(x)[0]
    index = int(probabilities.argmax()) if wanted is None else wanted
    scores = explainer.attribute(x, target=index, steps=steps)
    shown = torch.nn.functional.interpolate(scores, size=original.shape[1:], mode="bilinear", align_corners=False)
    picture = overlay(original.permute(1, 2, 0).numpy(), shown[0, 0].cpu().numpy())
    raw = scores[0, 0].cpu().numpy()
    with array_writer(stem.with_name(f"{stem.name}_map.npy"), raw.shape, np.float32) as append:
        append(raw)
    goal = stem.with_name(f"{stem.name}_overlay.png")
    with atomic_path(goal) as temporary:
        Image.fromarray(picture).save(temporary)
    return f"{file.name}: {target.class_names[index]} ({float(probabilities[index]):.2f}) -> {goal}"


def class_index(name: str, target: Target) -> int:
    """A class by index or by name (case and spaces do not matter).

    Raises AhaError with near names for an unknown one.
    """
    if name.isdigit() and int(name) < target.num_classes:
        return int(name)
    folded = {label.casefold().replace("_", " "): index for index, label in enumerate(target.class_names)}
    wanted = name.casefold().replace("_", " ")
    if wanted in folded:
        return folded[wanted]
    near = difflib.get_close_matches(wanted, folded, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"expected a class name or 0..{target.num_classes - 1}"
    raise AhaError(f"--class {name!r} is not a class of {target.name}; {hint}")


def output_names(images: list[Path]) -> dict[Path, str]:
    """A distinct output stem for each file: equal names in different folders get the folder's name in front."""
    stems = [image.stem for image in images]
    return {
        image: image.stem if stems.count(image.stem) == 1 else f"{image.parent.name}_{image.stem}_{place}"
        for place, image in enumerate(images)
    }
