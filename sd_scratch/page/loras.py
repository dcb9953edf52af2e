"""The LoRAs that a page may choose from: files that the person who started it named, each by its name alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sd_scratch.checkpoints.adapters.apply import AppliedLora
from sd_scratch.checkpoints.adapters.few_steps import few_steps
from sd_scratch.checkpoints.adapters.lora import Lora, read_lora
from sd_scratch.checkpoints.adapters.trigger_words import trigger_words
from sd_scratch.checkpoints.safetensors_file import read_header
from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.pipeline.adapters import LoraUse
from sd_scratch.pipeline.stable_diffusion import StableDiffusion

READ_LIMIT = 4  # files that are kept in memory


class Wardrobe:
    """One model, and the same with LoRAs: the last one that was asked for is kept.

    Args:
        files: by the names that a page calls them.
    """

    def __init__(self, model: StableDiffusion, files: Mapping[str, Path]) -> None:
        self.bare, self.files = model, dict(files)
        self._read: dict[str, Lora] = {}
        self._worn: tuple[tuple[LoraUse, ...], StableDiffusion] = ((), model)

    def dress(self, uses: Sequence[LoraUse] | None) -> StableDiffusion:
        """The model with these LoRAs and no others. Raises ScratchError for one that is not there, or not for
        this model. A hash that is said is held against the file's; a line says where it differs."""
        asked = tuple(use._replace(hash="") for use in uses or () if use.scale or use.text_scale)
        loras = [self._lora(use.name) for use in asked]
        for use in uses or ():
            known = self._read.get(use.name)
            if known and use.hash and use.hash != known.hash:
                log.warning(
                    f"the LoRA {use.name} has hash {use.hash} in the recipe, and the file {known.hash}:"
                    " the picture will differ"
                )
        if asked != self._worn[0]:
            self._worn = ((), self.bare)  # before the next one takes its memory
            adapters = [
                AppliedLora(lora, use.scale, use.text_scale)
                for lora, use in zip(loras, asked, strict=True)
            ]
            self._worn = (asked, self.bare.with_adapters(*adapters) if adapters else self.bare)
        return self._worn[1]

    def _lora(self, name: str) -> Lora:
        if name not in self.files:
            raise UsageError(
                f"no LoRA called '{name[:80]}' is in the folder that the page was started with -"
                f" {_listed(self.files)}"
            )
        if name not in self._read:
            while len(self._read) >= READ_LIMIT:
                del self._read[next(iter(self._read))]
            path = self.files[name]
            try:
                self._read[name] = read_lora(path, self.bare.base)
            except ScratchError as error:  # without the file's path
                raise type(error)(str(error).replace(str(path), path.name)) from None
        return self._read[name]

    def listed(self) -> list[dict[str, Any]]:
        """Every file's name, the words it was trained with, and what a run is to be like with it where it was
        distilled for few steps."""
        return [{"name": name, **_known(name, path)} for name, path in self.files.items()]


def _listed(files: Mapping[str, Path]) -> str:
    if not files:
        return "it has none: start it with a folder of LoRAs"
    names = sorted(files)
    return f"it has {', '.join(names[:10])}{' and others' if len(names) > 10 else ''}"


def _known(name: str, path: Path) -> dict[str, Any]:
    try:
        metadata = read_header(path).metadata
    except ScratchError:  # what is wrong with a file is said when it is asked for
        return {"few": None, "words": []}
    found, few = few_steps(name, metadata), None
    if found is not None:
        few = {key: getattr(found, key) for key in ("kind", "steps", "sampler", "guidance")}
        few |= {"schedule": found.spacing}
    return {"few": few, "words": trigger_words(metadata)}
