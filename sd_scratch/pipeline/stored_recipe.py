"""A picture and its recipe in one PNG file, and recipes out of PNG files from anywhere.

Two texts hold it: ``parameters`` as AUTOMATIC1111 writes it, and ``sd_scratch``, a JSON object.
"""

from pathlib import Path

from PIL import Image

from sd_scratch.errors import ScratchError, log
from sd_scratch.pictures.exif import read_comment
from sd_scratch.pictures.png import TEXT_LIMIT, encode_png, read_size, read_texts
from sd_scratch.pipeline.comfy_graph import COMFY, recipe_from_comfy
from sd_scratch.pipeline.invoke_metadata import INVOKE, recipe_from_invoke
from sd_scratch.pipeline.parameters import recipe_from_parameters
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json

OWN, A1111 = "sd_scratch", "parameters"  # keywords


def encode_picture(picture: Image.Image, recipe: Recipe) -> bytes:
    """The bytes of a PNG file that says how its picture was made."""
    texts = {A1111: recipe.to_parameters(), OWN: recipe.to_json()}
    if max(len(text.encode()) for text in texts.values()) > TEXT_LIMIT:
        log.warning("the prompt is too long to be stored in the picture: left out")
        texts = {}
    return encode_png(picture, texts)


def read_recipe(path: Path) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe in a PNG file, this package's own text before AUTOMATIC1111's, ComfyUI's and
    InvokeAI's; or in a JPEG or WebP file, as AUTOMATIC1111 writes it.

    Returns with it the names of settings that it has no place for. Nothing in the file is trusted:
    sizes are limited, every value is checked, and nothing that it names is opened.

    Raises:
        ScratchError: no PNG file, a damaged one, or one without a recipe.
    """
    if comment := read_comment(path):  # of a JPEG or WebP file
        return recipe_from_parameters(comment, str(path))
    texts, others = read_texts(path, (OWN, A1111))
    if OWN in texts:
        return recipe_from_json(texts[OWN], str(path)), ()
    if A1111 in texts:
        return recipe_from_parameters(texts[A1111], str(path))
    more, _ = read_texts(path, (COMFY, INVOKE)) if others & {COMFY, INVOKE} else ({}, others)
    if INVOKE in more:
        return recipe_from_invoke(more[INVOKE], str(path), read_size(path))
    if COMFY in more:
        return recipe_from_comfy(more[COMFY], str(path))
    if "workflow" in others:
        raise ScratchError(
            f"{path} - holds a graph of ComfyUI's (its texts {', '.join(sorted(others))[:80]}), which"
            " cannot be repeated here - give the prompt and settings themselves"
        )
    raise ScratchError(
        f"{path} - holds no prompt and settings - it was edited, or saved without them - "
        "give the prompt and settings themselves"
    )
