"""LoRAs on the page: from a folder that was named at the start, by name, as `generate` applies them."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sd_scratch.checkpoints.adapters.trigger_words import trigger_words
from sd_scratch.cli.page import find_loras
from sd_scratch.errors import UsageError
from sd_scratch.page.engine import Engine
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from tests.page.pages import RECIPE, Line
from tests.tiny import tiny_model

MODULE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
TAGS = '{"10_a": {"sks star": 40, "red": 12, "sks": 38}, "5_b": {"sks star": 20}}'
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("styles")
    (folder / "more").mkdir()
    model, rng = tiny_model(), torch.Generator().manual_seed(1)

    def low_rank(weight: torch.Tensor, path: str) -> dict[str, torch.Tensor]:
        rows, columns = weight.shape[:2]
        return {
            f"{path}.lora_down.weight": torch.randn(2, columns, generator=rng),
            f"{path}.lora_up.weight": torch.randn(rows, 2, generator=rng),
        }

    unet = model.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight
    text = model.text.encoder.layers[0].mlp.fc1.weight
    both = low_rank(unet, MODULE) | low_rank(text, TEXT)
    save_file(both, folder / "bold.safetensors", metadata={"ss_tag_frequency": TAGS})
    save_file(low_rank(unet, MODULE), folder / "more" / "lcm-thin.safetensors")
    (folder / "broken.safetensors").write_bytes(b"nothing")
    torch.save({}, folder / "old.pt")
    return folder


@pytest.fixture(scope="module")
def dressed(folder: Path) -> Iterator[Engine]:
    engine = Engine(tiny_model(), loras=find_loras(folder))
    yield engine
    engine.stop()


@pytest.fixture
def line(dressed: Engine) -> Iterator[Line]:
    line = Line(dressed)
    yield line
    dressed.close(line.session)


def made_with(line: Line, folder: Path, *scales: float) -> np.ndarray:
    model = line.engine.model.with_lora(folder / "bold.safetensors", *scales)
    (made,) = model.run(Recipe("a red circle", seed=7, steps=3, width=32, height=32))
    return np.asarray(made.to_pil()[0]).ravel()


def test_the_page_is_told_of_names_and_never_of_paths(line: Line, folder: Path) -> None:
    loras = {row["name"]: row["few"] for row in line.answers[0][0]["loras"]}
    assert set(loras) == {"bold", "lcm-thin", "broken"}  # a pickle is left out
    words = {row["name"]: row["words"] for row in line.answers[0][0]["loras"]}
    assert words == {"bold": ["sks star", "sks"], "lcm-thin": [], "broken": []}
    assert loras["bold"] is None and loras["lcm-thin"]["sampler"] == "lcm"
    assert str(folder) not in str(line.answers[0])


def test_a_lora_does_what_it_does_in_generate(line: Line, folder: Path) -> None:
    wish = {**RECIPE, "loras": [["bold", 0.7, 0.2, ""]]}
    head, body = line.ask(do="run", recipe=wish)
    assert head["say"] == "done", head
    assert np.array_equal(np.frombuffer(body, np.uint8), made_with(line, folder, 0.7, 0.2))
    tagged, again = line.ask(
        do="run", recipe={**RECIPE, "prompt": "a red circle <lora:bold:0.2:0.7>"}
    )
    assert again == body and tagged["recipe"]["prompt"] == "a red circle"
    _, saved = line.ask(do="save")
    stored = recipe_from_json(Image.open(io.BytesIO(saved)).text["sd_scratch"], "png")
    assert [use.name for use in stored.loras or ()] == ["bold"] and stored.loras[0].hash
    seen, _ = line.ask(do="tensor", name="unet.h", step=2, branch="cond")
    plain, _ = line.ask(do="run", recipe=RECIPE)
    bare, _ = line.ask(do="tensor", name="unet.h", step=2, branch="cond")
    assert plain["sha256"] != head["sha256"]
    assert seen["statistics"] != bare["statistics"]


def test_a_plane_is_the_lora_s_own(line: Line) -> None:
    prompts, loras = ["a red circle", "a blue circle", "a blue star"], [["bold", 1, 1, ""]]
    with_it, _ = line.ask(do="plane", prompts=prompts, loras=loras)
    without, _ = line.ask(do="plane", prompts=prompts)
    assert with_it["places"] != without["places"]
    corner = {"prompts": prompts, "at": with_it["places"][0]}
    at_corner, _ = line.ask(do="run", recipe={**RECIPE, "loras": loras}, place=corner)
    plain, _ = line.ask(do="run", recipe={**RECIPE, "loras": loras})
    assert at_corner["sha256"] == plain["sha256"]


def test_another_file_of_that_name_is_noted(line: Line) -> None:
    wish = {**RECIPE, "loras": [["bold", 1, 1, "0123456789ab"]]}
    head, _ = line.ask(do="run", recipe=wish)
    assert any("0123456789ab" in note for note in head["notes"])


@pytest.mark.parametrize(
    ("loras", "part"),
    [
        ([["../more/lcm-thin", 1, 1, ""]], "no LoRA called"),
        ([["/etc/passwd", 1, 1, ""]], "no LoRA called"),
        ([["old", 1, 1, ""]], "no LoRA called"),
        ([["broken", 1, 1, ""]], "broken"),
        ([["bold", 1e9, 1, ""]], "loras"),
        ("bold", "loras"),
        ([["bold", 1, 1, ""]] * 9, "9 LoRAs"),
    ],
)
def test_what_cannot_be_had_is_a_sentence(
    line: Line, folder: Path, loras: object, part: str
) -> None:
    head, _ = line.ask(do="run", recipe={**RECIPE, "loras": loras})
    assert head["say"] == "error" and part in head["text"] and "\n" not in head["text"]
    assert str(folder) not in head["text"]
    assert line.ask(do="run", recipe=RECIPE)[0]["say"] == "done"


def test_a_run_with_a_lora_can_be_cancelled(line: Line) -> None:
    """The model with a LoRA has the brake of the one that it was made from."""
    number = line.send(do="run", recipe={**RECIPE, "steps": 150, "loras": [["bold", 1, 1, ""]]})
    line.wait(number, "step")
    line.send(do="cancel")
    assert line.wait(number, "stopped", "done")[0]["say"] == "stopped"


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        find_loras(tmp_path / "nowhere")
    assert find_loras(None) == {}


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, []),
        ({"modelspec.trigger_phrase": " in zzz style "}, ["in zzz style"]),
        ({"modelspec.trigger_phrase": "a", "ss_tag_frequency": TAGS}, ["a"]),
        ({"ss_tag_frequency": '{"1_a": {"b": 9, "c": 4, "d": 5, "": 99}}'}, ["b", "d"]),
        ({"ss_tag_frequency": "[" * 100_000}, []),
        ({"ss_tag_frequency": '{"1_a": {"b": "many"}}'}, []),
        ({"ss_tag_frequency": '{"1_a": 3}'}, []),
        ({"ss_tag_frequency": "[1]"}, []),
        ({"ss_tag_frequency": '{"1_a": {"b": 1e999}}'}, []),
        ({"ss_tag_frequency": None, "modelspec.trigger_phrase": 7}, ["7"]),
    ],
)
def test_the_words_that_a_file_was_trained_with(
    metadata: dict[str, object], words: list[str]
) -> None:
    assert trigger_words(metadata) == words
