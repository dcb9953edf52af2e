"""The names of the files in a diffusers folder, on disk or in a hub's listing."""

import re

from sd_scratch.checkpoints.parts import Part

VARIANTS = ("", ".fp16")  # the first that exists is used, whole


def choose_weights(names: set[str], part: Part) -> list[str]:
    """Which files of a folder's listing hold a network's weights, none for a folder without them; for
    shards the index comes first. `names` are relative to the folder, with forward slashes."""
    folder, stem = part.folder, part.stem
    for variant in VARIANTS:
        whole = f"{folder}/{stem}{variant}.safetensors"
        if whole in names:
            return [whole]
        # Where the variant stands in the names of shards has changed from version to version.
        shard = re.compile(rf"{folder}/{stem}(\.fp16)?-\d+-of-\d+(\.fp16)?\.safetensors")
        for index in (
            f"{folder}/{stem}.safetensors.index{variant}.json",
            f"{folder}/{stem}{variant}.safetensors.index.json",
        ):
            if index in names:
                shards = [name for name in names if shard.fullmatch(name)]
                return [index, *sorted(n for n in shards if (".fp16" in n) == bool(variant))]
    return []
