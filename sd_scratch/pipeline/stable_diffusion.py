"""`StableDiffusion`: a model as a person has it in hand, with adapters, recipes and stored runs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from sd_scratch.checkpoints.adapters.apply import AppliedLora
from sd_scratch.checkpoints.adapters.control import read_control
from sd_scratch.checkpoints.adapters.embedding import read_embeddings
from sd_scratch.checkpoints.adapters.lora import read_lora
from sd_scratch.pictures.masks import Mask
from sd_scratch.pipeline.begin import Beginning
from sd_scratch.pipeline.image_noise import ImageNoise
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.pipeline.replay import replay
from sd_scratch.pipeline.run import Made, OnStep, run
from sd_scratch.pipeline.text_to_image import TextToImage
from sd_scratch.stop import Stop


class StableDiffusion(TextToImage):
    """`TextToImage` with all that is added from files. Use `load` to get one."""

    def with_lora(
        self, path: str | Path, scale: float = 1.0, text_scale: float | None = None
    ) -> "StableDiffusion":
        """The same model with one more LoRA (or LoCon, LoHa, LoKr, DoRA) from a file.

        `scale` is for the U-Net, and for the text encoder too unless `text_scale` is given. This model
        stays as it is, to the bit; the two share every weight that the LoRA does not change. Raises
        ScratchError for a file that is no LoRA for this model.
        """
        text_scale = scale if text_scale is None else text_scale
        lora = AppliedLora(read_lora(path, self.base), scale, text_scale)
        return self.with_adapters(*self.adapters, lora)

    def with_embedding(self, path: str | Path, token: str | None = None) -> "StableDiffusion":
        """The same model with a textual inversion's word (or words): a prompt reads it by its file's name,
        by ``embedding:name``, or by its token; `token` gives it another. Raises ScratchError for a file
        that is none for this model."""
        return self.with_adapters(*self.adapters, *read_embeddings(path, self.base, token))

    def with_control(
        self, path: str | Path, *, global_pool: bool | None = None
    ) -> "StableDiffusion":
        """The same model with one more ControlNet, from a file or a folder. Its runs take one `Control` for
        each, and add up what they say. `global_pool` is for networks of the kind "shuffle"."""
        return self.with_adapters(*self.adapters, read_control(path, self.base, global_pool))

    def run(
        self,
        recipe: Recipe | str,
        *,
        count: int = 1,
        batch_size: int = 1,
        init_image: Beginning | None = None,
        mask: Image.Image | Mask | None = None,
        init_noise: Tensor | None = None,
        hints: Sequence[Image.Image] = (),
        on_step: OnStep | None = None,
        stop: Stop | None = None,
    ) -> Iterator[Made]:
        """All that makes a picture, done: see `sd_scratch.pipeline.run.run`. A text is a recipe's prompt."""
        return run(
            self,
            recipe,
            count=count,
            batch_size=batch_size,
            init_image=init_image,
            mask=mask,
            init_noise=init_noise,
            hints=hints,
            on_step=on_step,
            stop=stop,
        )

    def replay(self, folder: str | Path) -> ImageNoise:
        """Make the picture of a stored trace again, its edits included: bit for bit on one machine.

        Raises ScratchError for a damaged folder, for a trace of other weights or with edits that are
        Python functions, and where the machine is the same and the picture is not.
        """
        return replay(self, folder)
