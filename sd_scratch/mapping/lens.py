"""Diffusion Lens: what a picture looks like that is made from an inner layer of the text encoder
(Toker et al. 2024, arXiv:2403.05846)."""

from sd_scratch.pipeline.prompt import Prompt
from sd_scratch.pipeline.stable_diffusion import StableDiffusion


def lens(model: StableDiffusion, text: str, layer: int) -> Prompt:
    """The prompt with the vectors that leave `layer` (0 is the first), normalised as the last one's
    are. Raises ScratchError for a layer that the model has not."""
    name = f"text.encoder.layers.{layer}.resid_out"
    with model.record(name) as trace:
        prompt = model.prompt(text)
    return prompt.with_context(model.text.final_layer_norm(trace[f"{name}:cond"].tensor))
