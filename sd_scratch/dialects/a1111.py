"""Recipes in the text that AUTOMATIC1111's web interface, and other tools, write into pictures.

The text is untrusted: every value's type and range is checked.
"""

from typing import Any

from sd_scratch.dialects.a1111_line import SettingsLine
from sd_scratch.dialects.hires import CELL, hires_of_a1111
from sd_scratch.diffusion.sampler_names import (
    A1111_OWN,
    BROWNIAN,
    a1111_schedule,
    find_sampler,
    split_solver,
)
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.limits import CLIP_SKIP, GUIDANCE, PAG, SEED, STEPS, read_integer
from sd_scratch.pipeline.adapters import embeddings_in, take_tags, with_hashes
from sd_scratch.pipeline.recipe import A1111_EMPHASES, Recipe
from sd_scratch.pipeline.settings import Option
from sd_scratch.text.chunks import changes_in
from sd_scratch.text.syntax import SYNTAXES

RNG_NAMES = {"CPU": "cpu", "NV": "nv", "GPU": "nv", "CUDA": "nv"}  # and stable-diffusion.cpp's
CUT = "Discard penultimate sigma"


def recipe_from_parameters(text: str, where: str) -> tuple[Recipe, tuple[str, ...]]:
    """The inverse of `Recipe.to_parameters`, for text that any program wrote.

    Returns the recipe, and the names of unsupported settings, with the reason if known. Raises ScratchError
    without settings, or for a bad value.
    """
    lines = text.strip().split("\n")
    starts = [i for i, line in enumerate(lines) if line.startswith("Steps: ")]
    if not starts:
        raise ScratchError(
            f"{where} - no line of settings that starts with 'Steps: ' - not repeatable"
        )
    prompt, marker, negative = ("\n" + "\n".join(lines[: starts[-1]])).partition(
        "\nNegative prompt:"
    )
    prompt, negative = prompt.strip(), negative.strip()
    settings = _Settings(lines[starts[-1]], where)

    settings.old_changes(prompt, negative)
    passes = settings.passes(prompt, negative)
    sampler, options, spacing = settings.sampler()
    try:
        text, loras = take_tags(prompt)
    except UsageError as error:
        raise ScratchError(f"{where} - {error}") from None
    if sampler in A1111_OWN and spacing and (passes.get("strength") or passes.get("hires_scale")):
        settings.keep(
            "Sampler",
            str(sampler),
            "from a picture on its noise and its first timestep disagree there",
        )
    if loras:
        loras = with_hashes(loras, settings.take("Lora hashes") or "")
    recipe = Recipe(
        prompt=text,
        negative_prompt=negative,
        seed=settings.integer("Seed", *SEED),
        steps=settings.integer("Steps", *STEPS),
        sampler=sampler,
        sampler_options=options,
        schedule=spacing,
        guidance=settings.number("CFG scale", *GUIDANCE),
        guidance_rescale=settings.number("CFG rescale", 0, 1),
        **settings.perturbed(),
        clip_skip=settings.integer("Clip skip", *CLIP_SKIP),
        model=settings.take("Model"),
        model_hash=settings.take("Model hash"),
        vae=settings.vae(),
        loras=loras or None,
        zero_snr=settings.zero_snr(),
        tiling="xy" if settings.take("Tiling") == "True" else None,
        **passes,
        embeddings=embeddings_in(settings.take("TI hashes") or "") or None,
        rng=settings.rng(),
        ensd=settings.integer("ENSD", *SEED),
        subseed=settings.integer("Variation seed", *SEED),
        subseed_strength=settings.number("Variation seed strength", 0, 1),
        **settings.emphasis(),
    )
    for key in ("Version", "Hashes", "SDCPP"):  # what these say stands elsewhere, too
        settings.take(key)
    behind = " ".join(lines[starts[-1] + 1 :]).strip()
    more = (f"what stands behind the settings ({behind[:40]})",) if behind else ()
    return recipe, (*settings.unread(), *more)


class _Settings(SettingsLine):
    """A line of settings in the terms of a recipe."""

    def sampler(self) -> tuple[str | None, dict[str, Option], str | None]:
        """The sampler by our name (or an unknown name), its options, and the schedule."""
        written = self.take("Sampler")
        if written is None:
            return None, {}, None
        # Before version 1.9 the spacing was a part of the name: "DPM++ 2M Karras".
        base, solver = split_solver(written)
        name, named = find_sampler(base)
        known = SAMPLERS[name].options if name in SAMPLERS else {}
        options: dict[str, Option] = {**solver}
        if cpp := self.was_written_by("stable-diffusion.cpp"):
            self.take("Guidance")  # of other models
            if name == "ddim":  # whose eta it writes for every sampler, inf where nothing was said
                self.left["Eta DDIM"] = self.left.get("Eta", "inf")
            if self.left.get("Eta DDIM") == "inf":
                self.take("Eta DDIM")
            self.take("Eta")
        eta = self.number("Eta DDIM" if name == "ddim" else "Eta", 0.0, 1.0)
        if eta is not None and "eta" in known:
            options["eta"] = eta
        own = self.was_written_by("sd_scratch")
        automatic = "" if own else "Uniform" if cpp else "Automatic"
        spacing = self.left.get("Schedule type", (named or automatic).capitalize())
        spacing = "Uniform" if spacing == "Discrete" else spacing
        apart = name in A1111_OWN and (own or cpp)  # no relatives of A1111's
        schedule = None if apart or not spacing else a1111_schedule(name, spacing)
        schedule = named if cpp and named == "trailing" else schedule
        if schedule != "":
            self.take("Schedule type")
        self.why["Schedule type"] = f"{spacing[:40]} is not here"
        if not own and not cpp:
            schedule = self._of_a1111(name, written, options, schedule)
        return name, options, schedule or None

    def _of_a1111(
        self, name: str, written: str, options: dict[str, Option], schedule: str | None
    ) -> str | None:
        """The schedule, and the options and steps that A1111 sets for a sampler; differences are noted."""
        if self.left.get("Beta schedule alpha") == self.left.get("Beta schedule beta") == "0.6":
            self.take("Beta schedule alpha")
            self.take("Beta schedule beta")
        plain = schedule and name not in A1111_OWN and "+cut" not in schedule
        if plain and self.left.get(CUT) == "True":
            self.take(CUT)
            schedule = f"{schedule}+cut"
        if name in BROWNIAN:
            self.keep("Sampler", written, "its noise is another stream's there")
        steps = read_integer(self.left.get("Steps", "")) or 0
        if name not in A1111_OWN or not 1 <= steps <= STEPS[1]:
            return schedule
        stride, old = STEPS[1] // steps, (self.version or (0, 0)) < (1, 6)
        if old and (STEPS[1] - 1) % stride == 0 and stride > 1:
            steps = (STEPS[1] - 1) // stride + 1  # so that none of its timesteps is 1000
        if name == "unipc":
            options |= {"order": self.integer("UniPC order", 1, 3) or 3}
            options |= {"variant": self.take("UniPC variant") or "bh1"}
            steps = steps if old else -(-STEPS[1] // stride)
        self.left["Steps"] = str(steps)
        return "ddim_uniform" if old and schedule == A1111_OWN["ddim"] else schedule

    def zero_snr(self) -> bool | None:
        if self.left.get("Noise Schedule") != "Zero Terminal SNR":
            return None
        self.take("Noise Schedule")
        return True

    def old_changes(self, prompt: str, negative: str) -> None:
        """Note that [a:b:0.5] differed before 1.6: the second pass started it anew."""
        changing = any(changes_in(text, SYNTAXES[0]) for text in (prompt, negative))
        if changing and (self.version or (9, 9)) < (1, 6) and "Hires upscale" in self.left:
            self.keep("Prompt", "", "before 1.6 its changes began anew in the second pass")

    def perturbed(self) -> dict[str, Any]:
        """Perturbed attention guidance, as Forge and an extension of A1111 write it. Settings that remain
        mean that the extension applied it only in some steps."""
        whole = {"PAG Active": "True", "PAG Start Step": "0", "PAG End Step": "150"}
        for key in (key for key, value in whole.items() if self.left.get(key) == value):
            self.take(key)
        if self.take("PerturbedAttentionGuidance_enabled") == "True":
            self.left["PAG Scale"] = self.take("PerturbedAttentionGuidance_scale") or "3"
        layers = self.take("PAG layers")
        return {
            "pag": self.number("PAG Scale", *PAG),
            "pag_layers": ",".join(layers.split()) if layers else None,
            "pag_adaptive_scale": self.number("PAG adaptive scale", 0, 1),
        }

    def passes(self, prompt: str, negative: str) -> dict[str, Any]:
        """The size, and the settings of a second pass, or of a start picture."""
        width, height = self.size("Size") or (None, None)
        if width and height:
            width, height = (side // CELL * CELL or CELL for side in (width, height))
            found = hires_of_a1111(self, (width, height), prompt, negative)
            if found is not None:
                return found
        strength = self.number("Denoising strength", 0, 1) or None
        counted = None if strength is None or self.was_written_by("sd_scratch") else "a1111"
        return {"width": width, "height": height, "strength": strength, "strength_steps": counted}

    def emphasis(self) -> dict[str, Any]:
        """The emphasis by A1111's name, by default A1111's own."""
        written = self.left.get("Emphasis", "Original")
        if written in ("None", "No norm", "Original"):
            self.take("Emphasis")
        names = {ours: theirs for theirs, ours in A1111_EMPHASES.items()}
        return {
            "syntax": "plain" if written == "None" else "a1111",
            "emphasis": names.get(written, "a1111"),
        }

    def vae(self) -> str | None:
        """The VAE's name if it is not the model's own."""
        self.take("VAE hash")
        written = self.take("VAE")
        return None if written in ("None", "Automatic") else written

    def rng(self) -> str:
        """The source of noise. By default it is a GPU, mostly NVIDIA's."""
        written = self.left.get("RNG", "GPU")
        if written.upper() in RNG_NAMES:
            self.take("RNG")
        return RNG_NAMES.get(written.upper(), "nv")
