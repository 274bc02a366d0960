"""Stage `prepare`: draw the synthetic objects, or index and verify class folders."""

from __future__ import annotations

from aha_core.data.prepare import prepare_folder, prepare_synthetic
from stages.context import Context
from stages.outputs import rebuild


def run(ctx: Context) -> None:
    with rebuild(ctx.paths.data) as out:
        config, seed = ctx.params.data, ctx.params.seed
        if config.source == "synthetic":
            manifest = prepare_synthetic(config, seed, out, ctx.progress)
        else:
            manifest = prepare_folder(config, seed, out, ctx.progress, threads=ctx.cores)
    counts = ", ".join(f"{sum(per_class.values())} {split}" for split, per_class in manifest["counts"].items())
    ctx.say(f"prepared {counts} images of {len(manifest['class_names'])} classes at {config.image_size} px")
    if "objects" in manifest:
        kind = "masks" if config.folder.masks else "boxes"
        ctx.say(f"{manifest['objects']['images']} images have {kind}; localisation is measured on them alone")
    if manifest["skipped"]:
        first = manifest["skipped"][0]
        ctx.say(f"skipped {len(manifest['skipped'])} unreadable files, e.g. {first['name']}: {first['reason']}")
    if manifest["enlarged"]:
        ctx.say(f"{manifest['enlarged']} images are smaller than {config.image_size} px and will be enlarged")
