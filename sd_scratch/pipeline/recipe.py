"""`Recipe`: everything that makes a picture, so it can be repeated.

It is stored inside the picture (see `png`) twice: as JSON, which repeats a run, and as the text of
AUTOMATIC1111's web interface, which many programs read.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sd_scratch.diffusion.noise import Drawing
from sd_scratch.diffusion.sampler_names import a1111_title
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.errors import log
from sd_scratch.json_file import Fields, parse_json
from sd_scratch.limits import RNGS
from sd_scratch.pipeline.adapters import ControlUse, EmbeddingUse, LoraUse, show_hashes, with_tags
from sd_scratch.pipeline.emphasis import EMPHASES
from sd_scratch.pipeline.mask_use import MaskUse
from sd_scratch.pipeline.part_way import UPSCALERS
from sd_scratch.pipeline.settings import SETTINGS, Option
from sd_scratch.text.syntax import SYNTAXES
from sd_scratch.version import __version__

A1111_SAMPLERS = {sampler.name: sampler.metadata_name for sampler in SAMPLERS.values()}

A1111_EMPHASES = {"none": "No norm"}  # what it writes where it is not its own default


@dataclass(frozen=True)
class Recipe:
    """How a picture was made, or will be made. None is the model's own default.

    `sd_scratch.pipeline.settings.SETTINGS` says what each setting decides.

    Attributes:
        sampler_options: the sampler's own options, such as ``eta``.
        fast: approximations, as `sd_scratch.pipeline.fast` writes them.
        model: a shipped model's name, a hub id, or a file's or folder's name without its path; `revision` is
            the hub commit, for a hub id.
        model_hash, init_image_hash: the first 10 hex digits of the sha256 of the weights, and of the picture's file.
        vae, text_encoder, init_image, init_noise: names without their paths; of the first two, what replaced
            the model's own.
        prediction, zero_snr: if they override the checkpoint's.
        strength: the share of the steps taken from `init_image`, counted by `strength_steps`.
        hires_scale: None for one pass; of the second, `hires_method` is one of
            `sd_scratch.pipeline.part_way.UPSCALERS`.
        rng, ensd, subseed, subseed_strength: see `sd_scratch.diffusion.noise.Drawing`.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int | None = None
    steps: int | None = None
    sampler: str | None = None
    sampler_options: Mapping[str, Option] = field(default_factory=dict)
    schedule: str | None = None
    guidance: float | None = None
    guidance_rescale: float | None = None
    pag: float | None = None
    pag_layers: str | None = None
    pag_adaptive_scale: float | None = None
    fast: str | None = None
    width: int | None = None
    height: int | None = None
    clip_skip: int | None = None
    text_cleaning: str | None = None
    model: str | None = None
    revision: str | None = None
    model_hash: str | None = None
    vae: str | None = None
    text_encoder: str | None = None
    ema: bool | None = None
    dtype: str | None = None
    prediction: str | None = None
    zero_snr: bool | None = None
    loras: tuple[LoraUse, ...] | None = None
    embeddings: tuple[EmbeddingUse, ...] | None = None
    controls: tuple[ControlUse, ...] | None = None
    syntax: str | None = None
    emphasis: str | None = None
    rng: str | None = None
    ensd: int | None = None
    subseed: int | None = None
    subseed_strength: float | None = None
    tiling: str | None = None
    init_image: str | None = None
    strength: float | None = None
    init_noise: str | None = None
    strength_steps: str | None = None
    hires_scale: float | None = None
    hires_method: str | None = None
    hires_strength: float | None = None
    hires_steps: int | None = None
    init_image_hash: str | None = None
    mask: MaskUse | None = None
    image_guidance: float | None = None

    def over(self, **values: Any) -> "Recipe":
        """The same with other values; None leaves a value."""
        return replace(self, **{key: value for key, value in values.items() if value is not None})

    @property
    def known(self) -> dict[str, Any]:
        """All that is not None, as plain data."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @property
    def reading(self) -> dict[str, Any]:
        """How its texts are read, as arguments of `StableDiffusion.prompt`."""
        return {
            "clip_skip": self.clip_skip or 1,
            "syntax": self.syntax or SYNTAXES[0],
            "emphasis": self.emphasis or EMPHASES[0],
        }

    def drawing(self, picture: int = 0) -> Drawing:
        """How its seed becomes noise, in picture number `picture` of several."""
        subseed = (self.subseed or 0) + picture
        return Drawing(self.rng or RNGS[0], self.ensd or 0, subseed, self.subseed_strength or 0.0)

    def to_json(self) -> str:
        return json.dumps({"version": __version__, **self.known}, ensure_ascii=False)

    def to_parameters(self) -> str:
        """AUTOMATIC1111's text: the prompt, the negative prompt, one line of settings."""
        options = dict(self.sampler_options)
        size = f"{self.width}x{self.height}" if self.width and self.height else None
        settings = {
            "Steps": self.steps,
            "Sampler": A1111_SAMPLERS.get(self.sampler or "", self.sampler),
            "Schedule type": a1111_title(self.schedule),
            "CFG scale": None if self.guidance is None else f"{self.guidance:g}",
            "CFG rescale": self.guidance_rescale or None,
            "PAG Scale": self.pag or None,
            "PAG layers": self.pag_layers.replace(",", " ")
            if self.pag and self.pag_layers
            else None,
            "PAG adaptive scale": (self.pag and self.pag_adaptive_scale) or None,
            "Fast": " + ".join(part.partition(":")[0] for part in self.fast.split(","))
            if self.fast
            else None,
            "Seed": self.seed,
            "Size": size,
            "Model hash": self.model_hash,
            "Model": self.model,
            "VAE": self.vae,
            "Clip skip": self.clip_skip if self.clip_skip != 1 else None,
            "Eta DDIM" if self.sampler == "ddim" else "Eta": options.get("eta"),
            "Emphasis": "None"
            if self.syntax == "plain"
            else A1111_EMPHASES.get(self.emphasis or ""),
            "RNG": (self.rng or RNGS[0]).upper(),
            "ENSD": self.ensd or None,
            "Variation seed": self.subseed if self.subseed_strength else None,
            "Variation seed strength": self.subseed_strength or None,
            "Tiling": True if self.tiling == "xy" else None,
            "Denoising strength": self.hires_strength if self.hires_scale else self.strength,
            "Mask blur": self.mask.feather if self.mask else None,
            "Inpaint area": "Only masked" if self.mask and self.mask.padding is not None else None,
            "Masked area padding": self.mask.padding if self.mask else None,
            "Image CFG scale": self.image_guidance,
            "Hires upscale": self.hires_scale,
            "Hires steps": self.hires_steps,
            "Hires upscaler": UPSCALERS[self.hires_method].title if self.hires_method else None,
            "Version": f"sd_scratch {__version__}",
        }
        line = ", ".join(f"{k}: {_plain(v)}" for k, v in settings.items() if v is not None)
        loras = tuple(use._replace(name=_plain(use.name)) for use in self.loras or ())
        words = tuple(use._replace(name=_plain(use.name)) for use in self.embeddings or ())
        for title, hashes in (("Lora", show_hashes(loras)), ("TI", show_hashes(words))):
            line += f', {title} hashes: "{hashes}"' if hashes else ""
        negative = f"Negative prompt: {self.negative_prompt}\n" if self.negative_prompt else ""
        return f"{with_tags(self.prompt, loras)}\n{negative}{line}"


def recipe_from_json(text: str, where: str) -> Recipe:
    """The inverse of `Recipe.to_json`, for untrusted text: every value's type and range is checked, and
    unknown keys are dropped with a warning.

    Raises ScratchError that names `where` and the key, also for one that holds no prompt.
    """
    data = parse_json(text.encode(), where)
    fields = Fields(data, where)
    values = {n: row.read(fields, n) for n, row in SETTINGS.items() if n in data or n == "prompt"}
    if unknown := ", ".join(sorted(data.keys() - SETTINGS.keys() - {"version"})):
        log.warning(f"{where} - settings that are not known here are left out: {unknown[:200]}")
    # Older recipes have the spacing among the sampler's options.
    options = dict(values.get("sampler_options", {}))
    if "sigmas" in options and "schedule" not in data:
        values["schedule"] = SETTINGS["schedule"].read(Fields(options, where), "sigmas")
        values["sampler_options"] = {k: v for k, v in options.items() if k != "sigmas"}
    # Before there was a choice every character was text.
    return Recipe(**{"syntax": "plain", **values})


def _plain(value: object) -> str:
    """A value with underscores for commas, colons, quotes and line ends, at which readers split."""
    return "".join("_" if c in ',:"\n\r' else c for c in str(value)).strip()
