"""A picture and its recipe in one PNG file, and recipes from any tool's files.

Two texts hold it: ``parameters`` as AUTOMATIC1111 writes it, and ``sd_scratch``, a JSON object.
"""

from pathlib import Path

from PIL import Image

from sd_scratch.dialects.a1111 import recipe_from_parameters
from sd_scratch.dialects.comfy import COMFY, recipe_from_comfy
from sd_scratch.dialects.conventions import speak
from sd_scratch.dialects.invoke import INVOKE, recipe_from_invoke
from sd_scratch.errors import ScratchError, log
from sd_scratch.pictures.exif import read_comment
from sd_scratch.pictures.png import TEXT_LIMIT, encode_png, read_size, read_texts
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json

OWN, A1111 = "sd_scratch", "parameters"  # keywords
TOOLS = {  # by keywords of their texts
    "sd-metadata": "InvokeAI before version 3",
    "Dream": "InvokeAI before version 3",
    "fooocus_scheme": "Fooocus",
    "num_inference_steps": "Easy Diffusion",
    "XML:com.adobe.xmp": "Draw Things or another",
    "Comment": "NovelAI or another",
    A1111: "SwarmUI or another",
}


def encode_picture(picture: Image.Image, recipe: Recipe) -> bytes:
    """The bytes of a PNG file with its recipe."""
    texts = {A1111: recipe.to_parameters(), OWN: recipe.to_json()}
    if max(len(text.encode()) for text in texts.values()) > TEXT_LIMIT:
        log.warning("the prompt is too long to be stored in the picture: left out")
        texts = {}
    return encode_png(picture, texts)


def read_recipe(path: Path) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe in a PNG file, this package's own text before AUTOMATIC1111's, ComfyUI's and
    InvokeAI's; or in a JPEG or WebP file, as AUTOMATIC1111 and ComfyUI write it.

    Also returns the names of unsupported settings. Nothing in the file is trusted: sizes are limited, every
    value is checked, and nothing that it names is opened.

    Raises:
        ScratchError: no PNG file, a damaged one, or one without a recipe.
    """
    where = str(path)
    if comment := read_comment(path):  # of a JPEG or WebP file
        read = recipe_from_comfy if comment.startswith("{") else recipe_from_parameters
        return read(comment, where)
    texts, others = read_texts(path, (OWN, A1111))
    if OWN in texts:
        return recipe_from_json(texts[OWN], where), ()
    if A1111 in texts and "{" not in texts[A1111][:1]:
        return _by_a1111_s_text(texts[A1111], path, others)
    more, _ = read_texts(path, (COMFY, INVOKE)) if others & {COMFY, INVOKE} else ({}, others)
    if INVOKE in more:
        return recipe_from_invoke(more[INVOKE], where, read_size(path))
    if more.get(COMFY, "").startswith("{"):
        return recipe_from_comfy(more[COMFY], where)
    if "workflow" in others:
        raise ScratchError(
            f"{path} - holds a graph of ComfyUI's (its texts {', '.join(sorted(others))[:80]}), which"
            " cannot be repeated here - give the prompt and settings themselves"
        )
    named = sorted({*texts, *others})
    tool = next((f", of {TOOLS[key]}" for key in TOOLS if key in named), "")
    why = (
        f"its texts are {', '.join(named)[:80]}{tool}"
        if named
        else "it was edited, or saved without them"
    )
    raise ScratchError(
        f"{path} - holds no prompt and settings that are read here: {why} - give the prompt and settings themselves"
    )


def _by_a1111_s_text(text: str, path: Path, others: set[str]) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe in A1111's text. Some ComfyUI nodes also write this text beside the graph: then the graph is
    read, if it can be."""
    if COMFY not in others:
        return recipe_from_parameters(text, str(path))
    try:
        return recipe_from_comfy(read_texts(path, (COMFY,))[0][COMFY], str(path))
    except ScratchError:
        recipe, left = recipe_from_parameters(text, str(path))
        graph = (
            "ComfyUI's graph beside them (not a plain chain: what stands in it alone is left out)"
        )
        return speak(recipe, "comfy"), (*left, graph)
