"""Previews: how near they are to the picture, and what reaches files and terminals."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import sd_scratch as sd
from sd_scratch.cli import main
from sd_scratch.pictures import terminal
from sd_scratch.pipeline.preview import colours, preview


def test_the_fitted_factors_show_the_scene() -> None:
    model = sd.load()
    prompt, noise = model.prompt("a large red heart on a blue background"), model.noise([1, 2])
    steps = list(model.steps(prompt, noise, steps=8))
    truth = F.avg_pool2d(noise.with_latent(steps[-1].x_next, t=0).decode().clamp(-1, 1), 8)
    guessed = [colours(step.x0, model.config.name) for step in steps]
    alike = [_correlation(guess, truth) for guess in guessed]
    assert alike[-1] > 0.8
    assert preview(steps[-1].x0, "scenes").size == (2 * 64 + 6, 64 + 4)


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_a_model_that_is_not_known_is_taken_for_stable_diffusion() -> None:
    latent = torch.zeros(1, 4, 2, 2)
    latent[0, 1] = 1.0
    assert torch.allclose(
        colours(latent, "anything")[0, :, 0, 0], torch.tensor([0.187, 0.286, 0.173])
    )


def picture() -> Image.Image:
    pixels = np.zeros((13, 17, 3), dtype=np.uint8)
    pixels[:6, :9] = (255, 0, 0)
    pixels[6:, 5:] = (0, 0, 255)
    pixels[12, 16] = (0, 255, 0)
    return Image.fromarray(pixels)


def read_sixel(text: str) -> np.ndarray:
    """A reader of the sequences, by DEC's manual."""
    body = re.fullmatch('\x1bPq"1;1;(\\d+);(\\d+)(.*)\x1b\\\\', text, re.S)
    assert body is not None
    width, height = int(body[1]), int(body[2])
    image, palette = np.zeros((height + 6, width, 3), dtype=np.uint8), {}
    colour, x, top = 0, 0, 0
    for token in re.finditer(
        r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)(.)|([$\-])|([?-~])", body[3]
    ):
        if token[1]:
            palette[int(token[1])] = [round(int(token[i]) * 2.55) for i in (2, 3, 4)]
        elif token[5]:
            colour = int(token[5])
        elif token[8]:
            x, top = 0, top + (6 if token[8] == "-" else 0)
        else:
            bits = ord(token[7] or token[9]) - 63
            count = int(token[6] or 1)
            for row in range(6):
                if bits >> row & 1:
                    image[top + row, x : x + count] = palette[colour]
            x += count
    return image[:height]


def test_sixels_are_the_picture() -> None:
    assert np.array_equal(read_sixel(terminal.sixel(picture())), np.asarray(picture()))


@pytest.mark.parametrize("size", [(13, 17), (200, 300)])
def test_png_protocols_hold_the_picture(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    original = Image.fromarray(noise)
    sent = re.findall("\x1b_G([^;]*);([^\x1b]*)\x1b\\\\", terminal.kitty(original))
    assert all(len(data) <= terminal.KITTY_CHUNK for _, data in sent)
    assert [keys.endswith("m=1") for keys, _ in sent] == [True] * (len(sent) - 1) + [False]
    inline = terminal.iterm2(original).split(":", 1)[1].removesuffix("\x07")
    for text in ("".join(data for _, data in sent), inline):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))), noise)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app", "TERM": "xterm-256color"}, "iterm2"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/x"}, None),
        ({"TERM": "xterm-256color"}, None),
    ],
)
def test_what_terminals_say_of_themselves(environment: dict[str, str], found: str | None) -> None:
    assert terminal.find_protocol(environment) == found


@pytest.fixture
def generate(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> int:
        small = ["--width=32", "--height=32", "--steps=4", "--seed=7", "-o", "made.png"]
        return main(["generate", "a cat", *words, *small, "-m", str(tiny_folder), "--device=cpu"])

    return run


def test_a_file_holds_the_last_preview(generate, tmp_path: Path, monkeypatch) -> None:
    from sd_scratch.cli import preview

    written = []
    write = preview.write_file

    def spy(path: Path, data: bytes, **options: bool) -> None:
        if path.name == "p.png":
            written.append(data)
        write(path, data, **options)

    monkeypatch.setattr(preview, "write_file", spy)
    assert generate("--preview=2", "--preview-file=p.png") == 0
    assert len(written) == 2
    assert (tmp_path / "p.png").read_bytes() == written[-1] != written[0]
    with Image.open(tmp_path / "p.png") as shown:
        assert shown.size == (36, 36)
    plain = (tmp_path / "made.png").read_bytes()
    (tmp_path / "made.png").unlink()
    assert generate("--preview-file=p.png") == 0  # a preview may be replaced
    assert (tmp_path / "made.png").read_bytes() == plain


def test_the_steps_of_a_second_pass_count_on(generate, tmp_path: Path) -> None:
    assert generate("--preview=6", "--preview-file=p.png", "--hires", "--hires-strength=1") == 0
    with Image.open(tmp_path / "p.png") as shown:
        assert shown.size == (68, 68)  # step 2 of the second 4, with a frame


def test_previews_that_never_come_are_said_and_the_picture_is_safe(
    generate, tmp_path: Path, capsys
) -> None:
    assert generate("--preview=5", "--preview-file=p.png") == 0
    assert "--preview 5: of 4 steps nothing is shown" in capsys.readouterr().err
    assert generate("--preview-file=./made.png", "--overwrite") == 2
    assert "is where the picture goes" in capsys.readouterr().err


def test_another_picture_is_not_replaced(generate, tmp_path: Path, capsys) -> None:
    picture().save(tmp_path / "mine.png")
    kept = (tmp_path / "mine.png").read_bytes()
    assert generate("--preview-file=mine.png") == 2
    assert "exists and is no preview" in capsys.readouterr().err
    assert (tmp_path / "mine.png").read_bytes() == kept
    assert not (tmp_path / "made.png").exists()


def test_nowhere_to_show_is_said_before_anything_is_computed(generate, capsys) -> None:
    assert generate("--preview=1") == 2
    assert "name a file" in capsys.readouterr().err
    assert generate("--preview-file=p.jpg") == 2
