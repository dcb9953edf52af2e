"""Pictures in: every kind of pixel as a person sees it, and what is refused."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.pictures.read import MAX_SIDE, read_picture, to_rgb

RAMP = np.linspace(0, 65535, 64 * 32).reshape(32, 64).astype(np.uint16)


def read(path: Path, picture: Image.Image, **options: object) -> np.ndarray:
    picture.save(path, **options)
    return np.asarray(read_picture(path)).astype(int)


def flat(mode: str, *value: int) -> Image.Image:
    return Image.new(mode, (8, 4), value if len(value) > 1 else value[0])


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    pixels = read(tmp_path / "a.png", Image.fromarray(RAMP))
    assert np.abs(pixels - (RAMP / 257)[..., None]).max() <= 0.5


@pytest.mark.parametrize(
    ("picture", "colour"),
    [
        (flat("RGBA", 13, 200, 70, 0), (255, 255, 255)),
        (flat("RGBA", 255, 0, 0, 128), (255, 127, 127)),
        (flat("LA", 0, 128), (127, 127, 127)),
        (flat("L", 77), (77, 77, 77)),
        (flat("1", 1), (255, 255, 255)),
        (flat("RGB", 1, 2, 3).quantize(4), (1, 2, 3)),
    ],
)
def test_every_kind_of_pixel(tmp_path: Path, picture: Image.Image, colour: tuple) -> None:
    assert np.abs(read(tmp_path / "a.png", picture) - colour).max() <= 1


@pytest.mark.parametrize(
    "picture", [flat("RGB", 9, 9, 9), flat("L", 9), Image.fromarray(np.full((4, 8), 9, np.uint16))]
)
def test_one_colour_that_means_transparent(tmp_path: Path, picture: Image.Image) -> None:
    clear = (9, 9, 9) if picture.mode == "RGB" else 9
    assert read(tmp_path / "a.png", picture, transparency=clear).min() == 255


def test_a_palette_with_transparent_entries(tmp_path: Path) -> None:
    picture = flat("RGB", 1, 2, 3).quantize(2)
    assert read(tmp_path / "a.png", picture, transparency=bytes(2)).min() == 255


def test_cmyk(tmp_path: Path) -> None:
    pixels = read(tmp_path / "a.jpg", flat("CMYK", 0, 255, 255, 0), quality=100)
    assert np.abs(pixels - (255, 0, 0)).max() <= 3


def test_another_background() -> None:
    clear = flat("RGBA", 0, 0, 0, 0)
    assert to_rgb(clear, "navy").getpixel((0, 0)) == (0, 0, 128)
    assert to_rgb(clear, "#010203").getpixel((0, 0)) == (1, 2, 3)
    with pytest.raises(UsageError, match="'nothing' is no colour"):
        to_rgb(clear, "nothing")
    with pytest.raises(ScratchError, match="fractions"):
        to_rgb(Image.new("F", (1, 1)))


def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 4))
    exif = picture.getexif()
    exif[0x0112] = 6
    for name in ("a.jpg", "a.png", "a.webp"):
        assert read(tmp_path / name, picture, exif=exif).shape == (8, 4, 3)


def test_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [flat("RGB", 255, 0, 0), flat("RGB", 0, 0, 255)]
    for name in ("a.png", "a.webp"):
        pixels = read(
            tmp_path / name, frames[0], save_all=True, append_images=frames[1:], quality=100
        )
        assert np.abs(pixels - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused_whatever_they_are_called(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png", format=kind)
    with pytest.raises(ScratchError, match=r"a\.png - not a PNG, JPEG or WebP picture"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("text", ["", "<svg xmlns='http://www.w3.org/2000/svg'/>", "%!PS-Adobe"])
def test_what_is_no_picture(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.png").write_text(text)
    with pytest.raises(ScratchError, match="not a PNG, JPEG or WebP picture"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_picture_cut_anywhere_is_one_line(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    Image.effect_noise((64, 64), 50).convert("RGB").save(file)
    data = file.read_bytes()
    for length in range(0, len(data) - 20, 97):
        file.write_bytes(data[:length])
        with pytest.raises(ScratchError, match=r"\A[^\n]*(damaged or cut off|not a PNG)[^\n]*\Z"):
            read_picture(file)


@pytest.mark.parametrize("size", [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1), (30_000, 30_000)])
def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, size: tuple[int, int]) -> None:
    head = struct.pack(">2I5B", *size, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ScratchError, match="shrink it"):
        read_picture(tmp_path / "a.png")


def test_the_largest_picture_and_the_smallest(tmp_path: Path) -> None:
    for size in ((MAX_SIDE, 1), (1, 1)):
        assert read(tmp_path / "a.png", Image.new("L", size)).shape == (size[1], size[0], 3)


def test_files_that_are_no_regular_ones(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(65_000_000)
    for path, reason in (
        (tmp_path / "pipe", "a device or a pipe"),
        (Path("/dev/zero"), "a device or a pipe"),
        (tmp_path, "a folder"),
        (tmp_path / "none", "no such file"),
        (tmp_path / "huge", "larger than 64 MB"),
    ):
        with pytest.raises(ScratchError, match=reason):
            read_picture(path)


def test_texts_beside_the_pixels_are_not_unpacked(tmp_path: Path) -> None:
    info = PngInfo()
    for i in range(100):
        info.add_text(f"workflow{i}", "x" * 10**6, zip=True)
    assert read(tmp_path / "a.png", flat("L", 7), pnginfo=info).max() == 7


def test_a_damaged_exif_block_costs_the_turn_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = io.BytesIO()
    flat("L", 7).save(file, format="PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    assert read_picture(tmp_path / "a.png").size == (8, 4)
