"""What a file is by its first bytes, for files that were downloaded wrongly or are of another kind."""

from pathlib import Path

from sd_scratch.files import open_file

PEEK = 64  # bytes
HEADER_LIMIT = 16 << 20  # bytes; the header of Stable Diffusion 1.x has some 150 kB

AGAIN = "download it again"
PICKLE = "a pickle (.ckpt, .pt, .bin), where a safetensors file is wanted"
# How files begin (white space and case aside) that are often found in place of a model.
SIGNATURES = (
    (b"version https://git-lfs", f"a git-lfs pointer, not the file - run git lfs pull, or {AGAIN}"),
    (b"<", f"looks like a web page - {AGAIN}; the site may want a login or a licence accepted"),
    (
        b"{",
        f"looks like JSON, perhaps an error message - {AGAIN}; of a model's configuration name the folder",
    ),
    (b"gguf", "a GGUF file (quantised weights) - use a .safetensors version"),
    (b"rar!", "a RAR archive - unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive - unpack it"),
    (b"\x1f\x8b", "a gzip archive - unpack it"),
    (b"\x89png", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"pk\x03\x04", PICKLE),  # a zip archive, as torch.save writes since 2020
    (b"\x80", PICKLE),  # a bare pickle, as it wrote before
)


def sniff(start: bytes) -> str:
    """What is wrong with a file that begins with `start`, and what to do; "" for safetensors."""
    length = int.from_bytes(start[:8], "little")
    looks_right = start[8:9] == b"{"
    if looks_right and length <= HEADER_LIMIT:
        return ""
    if not start:
        return f"an empty file - {AGAIN}"
    text = start.lstrip().lower()
    for signature, meaning in SIGNATURES:
        if text.startswith(signature):
            return meaning
    if start[:1] == b"\x08" and start[2:3] == b"\x12":  # the version, then who made it
        return "an ONNX graph - use a .safetensors version"
    if looks_right:
        return f"its header claims {length:,} bytes, and {HEADER_LIMIT:,} is the limit - {AGAIN}"
    return f"not a safetensors file - check the name, or {AGAIN}"


def sniff_file(path: Path) -> str:
    """`sniff` for a file on disk. Raises ScratchError for what cannot be read, such as a pipe."""
    with open_file(path) as file:
        return sniff(file.read(PEEK))
