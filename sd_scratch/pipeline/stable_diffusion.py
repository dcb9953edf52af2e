"""`StableDiffusion`: a model with adapters, recipes and stored runs."""

from pathlib import Path

from sd_scratch.checkpoints.adapters.apply import AppliedLora
from sd_scratch.checkpoints.adapters.control import read_control
from sd_scratch.checkpoints.adapters.embedding import read_embeddings
from sd_scratch.checkpoints.adapters.lora import read_lora
from sd_scratch.pipeline.checks import check_number
from sd_scratch.pipeline.replay import replay
from sd_scratch.pipeline.run import run
from sd_scratch.pipeline.text_to_image import TextToImage


class StableDiffusion(TextToImage):
    """`TextToImage` with everything from files. `load` makes one.

    `run` makes the pictures of a `Recipe`, `replay` that of a stored trace.
    """

    def with_lora(
        self, path: str | Path, scale: float = 1.0, text_scale: float | None = None
    ) -> "StableDiffusion":
        """The same model with one more LoRA (or LoCon, LoHa, LoKr, DoRA) from a file.

        `scale` is for the U-Net, and for the text encoder, too, without `text_scale`. This model stays
        unchanged, to the bit; the two share every weight that the LoRA does not change. Raises
        ScratchError for a file that is no LoRA for this model.
        """
        scales = [check_number("scale", one) for one in (scale, text_scale) if one is not None]
        lora = AppliedLora(read_lora(path, self.base), scales[0], scales[-1])
        return self.with_adapters(*self.adapters, lora)

    def with_embedding(self, path: str | Path, token: str | None = None) -> "StableDiffusion":
        """The same model with a textual inversion's word (or words): a prompt reads it by its file's name,
        by ``embedding:name``, or by its token; `token` gives it another. Raises ScratchError for a file that
        does not fit this model."""
        return self.with_adapters(*self.adapters, *read_embeddings(path, self.base, token))

    def with_control(
        self, path: str | Path, *, global_pool: bool | None = None
    ) -> "StableDiffusion":
        """The same model with one more ControlNet, from a file or a folder. Its runs take one `Control` for
        each, and add their residuals. `global_pool` is for networks of the kind "shuffle"."""
        return self.with_adapters(*self.adapters, read_control(path, self.base, global_pool))

    run = run
    replay = replay
