"""The names of the files in a diffusers folder, on disk or in a hub's listing."""

import re
from dataclasses import replace

from sd_scratch.checkpoints.parts import Part

FIRST = ("", "fp16")  # the variants that are taken before any other


def plain_names(part: Part) -> tuple[str, str]:
    """The weights of no variant: whole, and the index of shards."""
    return f"{part.stem}.safetensors", f"{part.stem}.safetensors.index.json"


def choose_weights(names: set[str], part: Part, ending: str = "safetensors") -> list[str]:
    """Which files of a folder's listing hold a network's weights, none for a folder without them; for
    shards the index comes first. The first variant that is there is used, whole: none, fp16, then any
    other by its name. `names` are relative to the folder, with forward slashes."""
    stem = re.escape(f"{part.folder}/{part.stem}")
    # Where the variant stands in the names of shards and of their index has changed between versions.
    whole = re.compile(rf"{stem}(?:\.(?P<v>[\w-]+))?\.{ending}")
    index = re.compile(rf"{stem}(?:\.(?P<v>[\w-]+))?\.{ending}\.index(?:\.(?P<w>[\w-]+))?\.json")
    shard = re.compile(rf"{stem}(?:\.(?P<v>[\w-]+))?-\d+-of-\d+(?:\.(?P<w>[\w-]+))?\.{ending}")

    def by_variant(pattern: re.Pattern[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in sorted(names):
            if match := pattern.fullmatch(name):
                groups = match.groupdict()
                found.setdefault(groups["v"] or groups.get("w") or "", []).append(name)
        return found

    files, indices, shards = by_variant(whole), by_variant(index), by_variant(shard)
    for variant in dict.fromkeys([*FIRST, *sorted({*files, *indices})]):
        if variant in files:
            return files[variant]
        if variant in indices:
            return [indices[variant][0], *shards.get(variant, [])]
    return []


def choose_pickle(names: set[str], part: Part) -> list[str]:
    """The same for pickles, for a folder that has no safetensors files. transformers calls them after the
    library."""
    stem = "pytorch_model" if part.stem == "model" else part.stem
    return choose_weights(names, replace(part, stem=stem), "bin")
