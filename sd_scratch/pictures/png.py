"""Pictures to PNG with texts inside, and the texts out of PNG files from anywhere.

Files are read chunk by chunk without decoding a pixel (PNG specification, third edition, section 5).
"""

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd_scratch.errors import ScratchError, UsageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_LIMIT = 1 << 16  # bytes of one text
FILE_LIMIT = 1 << 26  # bytes


def encode_png(picture: Image.Image, texts: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a PNG file with these texts in it, each under its keyword; by default nothing but
    pixels."""
    info = PngInfo()
    for key, text in (texts or {}).items():
        info.add_text(key, text)
    file = io.BytesIO()
    picture.save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def read_texts(path: Path) -> dict[str, str]:
    """The texts in a PNG file by their keywords. Sizes are limited, and no pixel is decoded.

    Raises ScratchError: no PNG file, or a damaged one.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size > FILE_LIMIT:
                raise ScratchError(f"{path} - larger than {FILE_LIMIT >> 20} MB - not read")
            return dict(_texts(file, path))
    except OSError as error:
        raise UsageError(f"{path} - cannot be read: {error.strerror}") from None


def _texts(file: BinaryIO, path: Path) -> Iterator[tuple[str, str]]:
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise UsageError(f"{path} - not a PNG file - only those hold settings")
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
