"""The text that a JPEG or WebP file carries: EXIF's user comment, where A1111 puts its parameters."""

import io
from pathlib import Path

from PIL import ExifTags, Image

from sd_scratch.errors import ScratchError
from sd_scratch.files import read_file
from sd_scratch.pictures.png import FILE_LIMIT, TEXT_LIMIT

CODES = {b"UNICODE\0": ("utf-16-be", "utf-16-le"), b"ASCII\0\0\0": ("utf-8",)}  # EXIF 2.32, 4.6.5


def read_comment(path: Path) -> str | None:
    """The user comment of a JPEG or WebP file; None for a file of another kind, or without one.

    No pixel is decoded. Raises ScratchError for a damaged block and for more than 64 kB.
    """
    data = read_file(path, FILE_LIMIT)
    if not (data.startswith(b"\xff\xd8\xff") or data[8:12] == b"WEBP"):
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP")) as picture:
            comment = picture.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    except Exception as error:  # a damaged block can raise anything
        raise ScratchError(f"{path} - its EXIF data are damaged: {type(error).__name__}") from None
    if not comment:
        return None
    raw = comment if isinstance(comment, bytes) else str(comment).encode()
    if len(raw) > 2 * TEXT_LIMIT:
        raise ScratchError(f"{path} - more than {TEXT_LIMIT:,} characters of text in it")
    encodings = CODES.get(raw[:8], ())
    for encoding in encodings or ("utf-8",):
        text = (raw[8:] if encodings else raw).decode(encoding, errors="replace").strip("\0")
        if "Steps: " in text:
            return text
    return None
