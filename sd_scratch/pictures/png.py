"""Pictures to PNG with texts inside, and the texts out of PNG files from anywhere.

Files are read chunk by chunk without decoding a pixel (PNG specification, third edition, section 5).
"""

import io
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.files import open_file

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
TEXT_LIMIT = 1 << 16  # bytes of one text
FILE_LIMIT = 64_000_000  # bytes
KEYWORD = 79  # bytes at most
PROFILE = b"Raw profile type"
MAX_CHUNKS = 100_000


def encode_png(picture: Image.Image, texts: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a PNG file with these texts in it, each under its keyword; by default nothing but
    pixels."""
    info = PngInfo()
    for key, text in (texts or {}).items():
        info.add_text(key, text)
    file = io.BytesIO()
    picture.save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def read_texts(path: Path, wanted: Collection[str]) -> tuple[dict[str, str], set[str]]:
    """The `wanted` texts in a PNG file by their keywords, and the keywords of all others, which are
    stepped over however large they are. No pixel is decoded. Of equal keywords the last counts.

    Raises ScratchError: no regular PNG file, a damaged one, more than 64 kB in a wanted text.
    """
    texts: dict[str, str] = {}
    others: set[str] = set()
    with open_file(path, FILE_LIMIT) as file:
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise UsageError(
                f"{path} - not a PNG file, and no JPEG or WebP file with settings in it"
            )
        room = TEXT_LIMIT * len(wanted)
        for kind, length in _chunks(file, path):
            if kind not in TEXTS:
                continue
            start = file.read(min(length, KEYWORD + 1))
            file.seek(-len(start), io.SEEK_CUR)
            name = start.partition(b"\0")[0].decode("latin-1")
            if name not in wanted:
                others.add(name)
                continue
            texts[name] = _text(file, path, kind, length)
            room -= len(texts[name])
            if room < 0:
                raise ScratchError(f"{path} - its settings are there too many times - not read")
    return texts, others


def read_size(path: Path) -> tuple[int, int]:
    """Width and height in the head of a PNG file (section 11.2.1)."""
    with open_file(path, FILE_LIMIT) as file:
        width, height = struct.unpack(">II", file.read(24).ljust(24, b"\0")[16:])
    return width, height


def without_texts(data: bytes) -> bytes:
    """A PNG file without its texts, which a decoder of pixels would unpack, whatever their size; but
    for the profiles (EXIF) that some programs store as text. Other files are left as they are."""
    if not data.startswith(SIGNATURE):
        return data
    kept, place = [SIGNATURE], len(SIGNATURE)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        head = data[place + 4 : place + 8 + len(PROFILE)]
        if head[:4] not in TEXTS or head[4:] == PROFILE:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _chunks(file: BinaryIO, path: Path) -> Iterator[tuple[bytes, int]]:
    """Kind and length of every chunk, with the file at the start of its body."""
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            raise ScratchError(f"{path} - cut off before its end - copy the file again")
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return
        body = file.tell()
        yield kind, length
        file.seek(body + length + 4)
    raise ScratchError(f"{path} - more than {MAX_CHUNKS:,} chunks - not a picture")


def _text(file: BinaryIO, path: Path, kind: bytes, length: int) -> str:
    """The text of the chunk whose body begins here; at most one byte over the limit is unpacked."""
    too_large = ScratchError(
        f"{path} - its settings are larger than {TEXT_LIMIT >> 10} kB - not read"
    )
    if length > TEXT_LIMIT + KEYWORD + 128:  # room for the flags and the language
        raise too_large
    body, checksum = file.read(length), file.read(4)
    if checksum != struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))):
        raise ScratchError(f"{path} - damaged: a checksum is wrong - copy the file again")
    try:
        _key, text = body.split(b"\0", 1)
        packed = kind == b"zTXt"
        if packed:
            text = text[1:]  # the compression method, of which there is one
        elif kind == b"iTXt":
            packed = text[:1] == b"\1"
            _language, _translated, text = text[2:].split(b"\0", 2)
        if packed:
            text = zlib.decompressobj().decompress(text, TEXT_LIMIT + 1)
    except (ValueError, zlib.error):
        raise ScratchError(f"{path} - its text cannot be decoded - the file is damaged") from None
    if len(text) > TEXT_LIMIT:
        raise too_large
    return text.decode("utf-8" if kind == b"iTXt" else "latin-1", errors="replace")
