"""Stage `refine`: maps of the evaluation images after 0 .. T gradient steps."""

from __future__ import annotations

import numpy as np

from aha_core.attribution import Explainer
from aha_core.files import array_writer, atomic_json
from stages.context import Context
from stages.images import chunk_starts, chunks, evaluated
from stages.outputs import rebuild


def run(ctx: Context) -> None:
    ctx.use_all_cores()
    params = ctx.params
    memory = params.resources.memory_gb
    explainer = Explainer.load(ctx.paths.explainer, ctx.paths.target, params.refine, memory).to(ctx.device)
    dataset, indices = evaluated(ctx, "test")
    size, steps = explainer.target.image_size, params.refine.steps
    starts = chunk_starts(ctx, len(indices))
    with rebuild(ctx.paths.refined) as out:
        for role in params.evaluate.classes:
            shape = (len(indices), steps + 1, 1, size, size)
            with array_writer(out / f"maps_{role}.npy", shape, np.float32) as append, ctx.bar() as bar:
                task = bar.add_task(f"refine {role}", total=len(indices))
                for batch, classes in chunks(ctx, dataset, indices, explainer.target, role, starts):
                    start = explainer.attribute(batch.x, classes)
                    result = explainer.refine(batch.x, start, classes, steps)
                    append(result.maps.transpose(0, 1).cpu().numpy())
                    bar.advance(task, len(classes))
        atomic_json(out / "images.json", {"indices": indices, "roles": list(params.evaluate.classes), "steps": steps})
    ctx.say(f"refined {len(indices)} images by {steps} steps")
