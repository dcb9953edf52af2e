import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd_scratch.dialects.stored_recipe import encode_picture, read_recipe
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.pictures.png import TEXT_LIMIT, encode_png
from sd_scratch.pipeline.recipe import Recipe

RECIPE = Recipe(prompt="naïve 漢字", seed=5, steps=2, model="tiny", syntax="plain")


def picture() -> Image.Image:
    return Image.effect_noise((16, 8), 50).convert("RGB")


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def with_texts(path: Path, *, packed: bool = False, **texts: str) -> Path:
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text, zip=packed)
    picture().save(path, pnginfo=info)
    return path


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(path: Path, kind: bytes, body: bytes) -> Path:
    data = encode_png(picture())
    return saved(path, data[:33] + chunk(kind, body) + data[33:])  # after IHDR


def test_the_recipe_comes_back_and_the_pixels_are_untouched(tmp_path: Path) -> None:
    original = picture()
    path = saved(tmp_path / "a.png", encode_picture(original, RECIPE))
    assert read_recipe(path) == (RECIPE, ())
    with Image.open(path) as read:
        assert read.tobytes() == original.tobytes()
        assert read.info["parameters"] == RECIPE.to_parameters()


def test_without_a_recipe_there_are_only_pixels() -> None:
    with Image.open(io.BytesIO(encode_png(picture()))) as read:
        read.load()
        assert read.info == {}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("prompt", ["plain", "naïve", "漢字"])
def test_text_of_other_programs_in_every_kind_of_chunk(
    tmp_path: Path, packed: bool, prompt: str
) -> None:
    text = f"{prompt}\nSteps: 3, Seed: 4, RNG: CPU"
    path = with_texts(tmp_path / "a.png", packed=packed, parameters=text)
    read, left = read_recipe(path)
    assert (read.prompt, read.steps, read.seed, left) == (prompt, 3, 4, ())


def test_our_own_text_comes_first(tmp_path: Path) -> None:
    texts = {"parameters": "other\nSteps: 3", "sd_scratch": RECIPE.to_json()}
    assert read_recipe(with_texts(tmp_path / "a.png", **texts))[0] == RECIPE


def test_text_too_long_to_be_read_is_not_written(caplog: pytest.LogCaptureFixture) -> None:
    with Image.open(io.BytesIO(encode_picture(picture(), Recipe(prompt="x" * TEXT_LIMIT)))) as read:
        assert read.info == {}
    assert "too long" in caplog.text


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (b"tEXt", b"parameters\0" + b"x" * (TEXT_LIMIT + 1), "64 kB"),
        (b"tEXt", b"parameters\0" + b"x" * 10**6, "64 kB"),
        (b"zTXt", b"parameters\0\0" + zlib.compress(b"x" * 10**8), "64 kB"),
        (b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(b"x" * 10**8), "64 kB"),
        (b"zTXt", b"parameters\0\0not packed", "cannot be decoded"),
        (b"tEXt", b"no keyword", "holds no prompt"),
        (b"tEXt", b"parameters", "cannot be decoded"),
        (b"iTXt", b"parameters\0", "cannot be decoded"),
        (b"iTXt", b"parameters\0\0\0", "cannot be decoded"),
        (b"sRGB", b"\0", "holds no prompt"),
    ],
)
def test_hostile_chunks(tmp_path: Path, kind: bytes, body: bytes, reason: str) -> None:
    with pytest.raises(ScratchError, match=reason):
        read_recipe(with_chunk(tmp_path / "a.png", kind, body))


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    path = with_chunk(tmp_path / "a.png", b"iTXt", b"parameters\0\0\0\0\0\xff\xfe\nSteps: 3")
    assert read_recipe(path)[0].prompt == "\ufffd\ufffd"


def test_a_wrong_checksum_is_told(tmp_path: Path) -> None:
    data = encode_picture(picture(), RECIPE).replace(b'"seed": 5', b'"seed": 6')
    with pytest.raises(ScratchError, match="checksum"):
        read_recipe(saved(tmp_path / "a.png", data))


def test_a_file_cut_off_anywhere_is_told(tmp_path: Path) -> None:
    data = encode_picture(picture(), RECIPE)
    for length in (0, 4, 8, 12, 20, 60, 200, len(data) - 12, len(data) - 5):
        with pytest.raises(ScratchError, match="not a PNG|cut off|damaged"):
            read_recipe(saved(tmp_path / "a.png", data[:length]))


def test_what_is_no_png_is_refused(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg")
    for path in (tmp_path / "a.jpg", saved(tmp_path / "b.png", b"<html>")):
        with pytest.raises(ScratchError, match="not a PNG file") as caught:
            read_recipe(path)
        assert isinstance(caught.value, UsageError)
    with pytest.raises(ScratchError, match="cannot be read"):
        read_recipe(tmp_path / "missing.png")
    with pytest.raises(ScratchError, match="a folder"):
        read_recipe(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ScratchError, match="a device or a pipe"):
        read_recipe(tmp_path / "pipe")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(1 << 27)
    with pytest.raises(ScratchError, match="larger than 64 MB"):
        read_recipe(tmp_path / "a.png")


def test_texts_of_others_are_stepped_over_whatever_their_size(tmp_path: Path) -> None:
    bomb = zlib.compress(b"x" * 10**6)
    others = [(b"zTXt", b"workflow\0\0" + bomb), (b"tEXt", b"prompt\0" + b"x" * 10**6)]
    data = encode_picture(picture(), RECIPE)
    for kind, body in others * 50:
        data = data[:33] + chunk(kind, body) + data[33:]
    assert read_recipe(saved(tmp_path / "a.png", data)) == (RECIPE, ())


def test_many_texts_of_one_name_are_refused(tmp_path: Path) -> None:
    body = b"parameters\0\0" + zlib.compress(b"x" * 60_000)
    data = encode_png(picture())
    data = data[:33] + 20 * chunk(b"zTXt", body) + data[33:]
    with pytest.raises(ScratchError, match="too many times"):
        read_recipe(saved(tmp_path / "a.png", data))


def test_a_graph_of_comfyui_is_named(tmp_path: Path) -> None:
    path = with_texts(tmp_path / "a.png", workflow='{"nodes": []}', prompt="{}")
    with pytest.raises(ScratchError, match="ComfyUI's"):
        read_recipe(path)
