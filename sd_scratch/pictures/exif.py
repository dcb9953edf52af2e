"""The text that a JPEG or WebP file carries in EXIF: the user comment, where A1111 puts its parameters, and
the fields that ComfyUI puts its graph into."""

import io
from pathlib import Path

from PIL import ExifTags, Image

from sd_scratch.errors import ScratchError
from sd_scratch.files import read_file
from sd_scratch.pictures.png import FILE_LIMIT, TEXT_LIMIT

# EXIF 2.32, 4.6.5; some write UTF-8 under the first.
CODES = {b"UNICODE\0": ("utf-16-be", "utf-16-le", "utf-8"), b"ASCII\0\0\0": ("utf-8",)}
SETTINGS, GRAPH = "Steps: ", "prompt:"  # by which A1111's and ComfyUI's texts are known
FIELDS = (ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model)


def read_comment(path: Path) -> str | None:
    """The settings in a JPEG or WebP file, or ComfyUI's graph, which begins with a brace; None for a file
    of another kind, or without them.

    No pixel is decoded. Raises ScratchError for a damaged block and for more than 64 kB.
    """
    data = read_file(path, FILE_LIMIT)
    if not (data.startswith(b"\xff\xd8\xff") or data[8:12] == b"WEBP"):
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "WEBP")) as picture:
            exif = picture.getexif()
            found = [exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)]
            found += [exif.get(field) for field in FIELDS]
    except Exception as error:  # a damaged block can raise anything
        raise ScratchError(f"{path} - its EXIF data are damaged: {type(error).__name__}") from None
    for value in filter(None, found):
        raw = value if isinstance(value, bytes) else str(value).encode()
        if len(raw) > 2 * TEXT_LIMIT:
            raise ScratchError(f"{path} - more than {TEXT_LIMIT:,} characters of text in it")
        encodings = CODES.get(raw[:8], ())
        for encoding in encodings or ("utf-8",):
            text = (raw[8:] if encodings else raw).decode(encoding, errors="replace")
            text = text.strip("\0\ufeff")
            if SETTINGS in text:
                return text
            if text.startswith(GRAPH):
                return text.removeprefix(GRAPH)
    return None
