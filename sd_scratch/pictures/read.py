"""Untrusted pictures: PNG, JPEG and WebP files to 8-bit RGB, as a person sees them.

The first frame, turned upright (EXIF), 16 bits scaled to 8 (PNG specification, third edition, 13.12),
and what is transparent laid over one colour, so that colours hidden under it never show.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.files import read_file
from sd_scratch.pictures.png import FILE_LIMIT, without_texts

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_SIDE = 4096  # pixels

Wanted = TypeVar("Wanted")


def read_picture(path: Path, background: str = "white") -> Image.Image:
    """A picture file as 8-bit RGB, over `background` where it is transparent.

    Raises ScratchError, in one line that begins with the path: no regular file, more than 64 MB or
    4096 pixels a side, another format, damaged; UsageError for a colour that has no such name.
    """
    return _read(path, lambda picture: to_rgb(picture, background))


def picture_in(data: bytes, where: str, background: str = "white") -> Image.Image:
    """The same of a file's bytes; `where` names them in errors."""
    return _decoded(data, where, lambda picture: to_rgb(picture, background))


def read_alpha(path: Path) -> Image.Image | None:
    """How opaque a picture file is, 8-bit grey; None where nothing can be transparent in it. Raises as
    `read_picture`."""
    return _read(path, _alpha)


def _alpha(picture: Image.Image) -> Image.Image | None:
    if picture.mode.startswith("I"):
        picture = _eight_bits(picture)
    return picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None


def _read(path: Path, as_wanted: Callable[[Image.Image], Wanted]) -> Wanted:
    return _decoded(read_file(path, FILE_LIMIT), str(path), as_wanted)


def _decoded(data: bytes, where: str, as_wanted: Callable[[Image.Image], Wanted]) -> Wanted:
    """What is made of a picture file's first frame, turned upright."""
    try:
        with Image.open(io.BytesIO(without_texts(data)), formats=FORMATS) as picture:
            check_size(picture, where)
            return as_wanted(_upright(picture, where))
    except ScratchError as error:
        raise type(error)(f"{where} - {str(error).removeprefix(f'{where} - ')}") from None
    except UnidentifiedImageError:
        raise ScratchError(f"{where} - not a PNG, JPEG or WebP picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ScratchError(f"{where} - more than {MAX_SIDE} pixels a side - shrink it") from None
    except Exception as error:  # a damaged file can raise anything in the decoders
        raise ScratchError(
            f"{where} - damaged or cut off ({_reason(error)}) - get it again"
        ) from None


def to_rgb(picture: Image.Image, background: str = "white") -> Image.Image:
    """Any picture as 8-bit RGB, over `background` (a name, or #rrggbb) where it is transparent.

    Raises ScratchError where it cannot be decoded or has no colours, UsageError for the background.
    """
    try:
        colour = ImageColor.getrgb(background)[:3]
    except ValueError:
        raise UsageError(f"{background[:40]!r} is no colour - such as white, or #ffffff") from None
    if picture.mode == "F":
        raise ScratchError(
            "a picture of fractions, whose white is not known - convert it to 8 bits"
        )
    try:
        if picture.mode.startswith("I"):
            picture = _eight_bits(picture)
        if picture.mode in ("La", "RGBa"):  # alpha multiplied in
            picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
        if not picture.has_transparency_data:
            return picture.convert("RGB")
        over = Image.new("RGBA", picture.size, (*colour, 255))
        return Image.alpha_composite(over, picture.convert("RGBA")).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise ScratchError(f"a picture that cannot be decoded ({_reason(error)})") from None


def check_size(picture: Image.Image, where: str) -> None:
    """Raise ScratchError for more than 4096 pixels a side; nothing is decoded for that."""
    if max(picture.size) > MAX_SIDE:
        size = "x".join(map(str, picture.size))
        raise ScratchError(
            f"{where} - {size} pixels, and {MAX_SIDE} a side is the most - shrink it"
        )


def _upright(picture: Image.Image, where: str) -> Image.Image:
    picture.seek(0)
    picture.load()
    try:
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # as for the pixels: a damaged block can raise anything
        log.warning(f"{where} - its EXIF block is damaged ({_reason(error)}): not turned")
        return picture


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits, where one grey may be transparent, as one of 8."""
    values = np.asarray(picture).astype(np.int64)
    grey = Image.fromarray(((values.clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8))
    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
