"""Pictures to PNG with their recipe inside, and recipes out of PNG files from anywhere.

Two text chunks hold it: ``parameters`` as AUTOMATIC1111 writes it, and ``sd_scratch``, a JSON object.
Files are read chunk by chunk without decoding a pixel (PNG specification, third edition, section 5).
"""

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd_scratch.errors import ScratchError
from sd_scratch.recipe import Recipe, recipe_from_json, recipe_from_parameters

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_LIMIT = 1 << 16  # bytes of one text
FILE_LIMIT = 1 << 26  # bytes

log = logging.getLogger(__name__)


def encode_png(picture: Image.Image, recipe: Recipe | None = None) -> bytes:
    """The bytes of a PNG file; without a recipe it holds nothing but pixels."""
    info = PngInfo()
    if recipe is not None:
        texts = {"parameters": recipe.to_parameters(), "sd_scratch": recipe.to_json()}
        if max(len(text.encode()) for text in texts.values()) > TEXT_LIMIT:
            log.warning("the prompt is too long to be stored in the picture: left out")
        else:
            for key, text in texts.items():
                info.add_text(key, text)
    file = io.BytesIO()
    picture.save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def read_recipe(path: Path) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe in a PNG file, this package's own text before AUTOMATIC1111's.

    Returns with it the names of settings that it has no place for. Nothing in the file is trusted:
    sizes are limited, every value is checked, and nothing that it names is opened.

    Raises:
        ScratchError: no PNG file, a damaged one, or one without a recipe.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size > FILE_LIMIT:
                raise ScratchError(f"{path} - larger than {FILE_LIMIT >> 20} MB - not read")
            texts = dict(_texts(file, path))
    except OSError as error:
        raise ScratchError(f"{path} - cannot be read: {error.strerror}", exit_code=2) from None
    if "sd_scratch" in texts:
        return recipe_from_json(texts["sd_scratch"], str(path)), ()
    if "parameters" in texts:
        return recipe_from_parameters(texts["parameters"], str(path))
    raise ScratchError(
        f"{path} - holds no prompt and settings - it was edited, or saved without them - "
        "give them on the command line"
    )


def _texts(file: BinaryIO, path: Path) -> Iterator[tuple[str, str]]:
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise ScratchError(f"{path} - not a PNG file - only those hold settings", exit_code=2)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            file.seek(length + 4, io.SEEK_CUR)
            continue
        body = file.read(min(length, TEXT_LIMIT + 128))  # room for the keyword and the flags
        if len(body) < length:
            raise ScratchError(
                f"{path} - damaged, or more than {TEXT_LIMIT >> 10} kB of text in it"
            )
        if file.read(4) != struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))):
            raise ScratchError(f"{path} - damaged: a checksum is wrong - copy the file again")
        try:
            key, text = _decode(kind, body)
        except (ValueError, zlib.error):
            raise ScratchError(
                f"{path} - its text cannot be decoded - the file is damaged"
            ) from None
        if len(text) > TEXT_LIMIT:
            raise ScratchError(f"{path} - more than {TEXT_LIMIT >> 10} kB of text in it - not read")
        yield key, text.decode("latin-1" if kind != b"iTXt" else "utf-8", errors="replace")
    raise ScratchError(f"{path} - cut off before its end - copy the file again")


def _decode(kind: bytes, body: bytes) -> tuple[str, bytes]:
    """Keyword and text of a chunk; at most one byte more than the limit is decompressed."""
    key, text = body.split(b"\0", 1)
    packed = kind == b"zTXt"
    if packed:
        text = text[1:]  # the compression method, of which there is one
    elif kind == b"iTXt":
        packed = text[:1] == b"\1"
        _language, _translated, text = text[2:].split(b"\0", 2)
    if packed:
        text = zlib.decompressobj().decompress(text, TEXT_LIMIT + 1)
    return key.decode("latin-1"), text
