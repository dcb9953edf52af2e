"""What separates two pictures: the settings and conventions in which their recipes differ."""

from dataclasses import dataclass, fields
from typing import Any

from sd_scratch.pipeline.recipe import Recipe

# In the order in which they change a picture: what each setting decides.
MEANING = {
    "prompt": "what is shown",
    "negative_prompt": "what is steered away from",
    "init_noise": "the noise: another picture altogether",
    "seed": "the noise: another picture altogether",
    "rng": "where the noise comes from: another picture altogether, from the same seed",
    "subseed": "which noise the seed's own is turned towards",
    "subseed_strength": "how far the noise is turned",
    "width": "the latent's size, and with it the noise",
    "height": "the latent's size, and with it the noise",
    "model": "the weights",
    "model_hash": "the weights",
    "revision": "the weights",
    "vae": "how latents become pixels",
    "text_encoder": "how texts become vectors",
    "ema": "which copy of the weights",
    "loras": "what is added to the weights",
    "embeddings": "what words are added to the vocabulary",
    "syntax": "what brackets, BREAK and length do to the prompt",
    "emphasis": "how weights act on the text's vectors",
    "text_cleaning": "the tokens of unusual characters",
    "clip_skip": "which layer the text's vectors come from",
    "sampler": "the way from noise to picture",
    "sampler_options": "details of that way",
    "schedule": "the noise levels on it",
    "steps": "how many steps it has",
    "init_image": "the picture that it began with",
    "init_image_hash": "the picture that it began with",
    "strength": "how much of the picture that it began with is made anew",
    "strength_steps": "how many steps that takes",
    "mask": "where that picture is painted anew, and how the rest is kept",
    "image_guidance": "how strongly that picture steers",
    "hires_scale": "whether a second pass makes it larger",
    "hires_method": "how it is enlarged",
    "hires_strength": "how much the second pass makes anew",
    "hires_steps": "the second pass's steps",
    "ensd": "the noise that a sampler adds on the way",
    "tiling": "whether opposite edges fit",
    "guidance": "how strongly the prompt steers",
    "guidance_rescale": "how far the contrast of guidance is taken back",
    "fast": "what work is left out",
    "dtype": "the last bits",
}
CONVENTIONS = ("rng", "syntax", "emphasis", "text_cleaning", "ensd", "schedule", "strength_steps")


@dataclass(frozen=True)
class Difference:
    """One setting that is not the same: its values, and what it decides."""

    name: str
    first: Any
    second: Any
    decides: str

    @property
    def is_convention(self) -> bool:
        """Whether tools differ in it where people chose nothing."""
        return self.name in CONVENTIONS


def differences(first: Recipe, second: Recipe) -> list[Difference]:
    """The settings in which two recipes differ, those that change most before the others. A setting that
    has no say in either, such as how weights act where nothing has one, is left out."""
    silent = set()
    if not any(_has_weights(recipe) for recipe in (first, second)):
        silent.add("emphasis")
    if not any(recipe.subseed_strength for recipe in (first, second)):
        silent |= {"subseed", "subseed_strength"}
    names = [each.name for each in fields(Recipe) if each.name not in silent]
    order = {name: place for place, name in enumerate(MEANING)}
    found = []
    for name in sorted(names, key=lambda name: order.get(name, len(order))):
        a, b = getattr(first, name), getattr(second, name)
        if (a or None) != (b or None):
            found.append(Difference(name, a, b, MEANING.get(name, "")))
    return found


def _has_weights(recipe: Recipe) -> bool:
    return any(sign in text for text in (recipe.prompt, recipe.negative_prompt) for sign in "([")
