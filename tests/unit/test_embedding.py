"""Textual inversions in their five layouts, by three names, from Python and from the command line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from sd_scratch.checkpoints.adapters.embedding import read_embeddings
from sd_scratch.checkpoints.build import empty
from sd_scratch.checkpoints.load import Components
from sd_scratch.cli import main
from sd_scratch.config import SD15
from sd_scratch.dialects.a1111 import recipe_from_parameters
from sd_scratch.dialects.stored_recipe import read_recipe
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline.adapters import EmbeddingUse
from sd_scratch.pipeline.recipe import Recipe, recipe_from_json
from tests.tiny import tiny_model

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "adapters"
WIDTH = 32
VECTORS = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def parameters() -> nn.ParameterDict:
    return nn.ParameterDict({"*": nn.Parameter(VECTORS)})


LAYOUTS = {
    "string_to_param": {"string_to_token": {"*": 265}, "string_to_param": {"*": VECTORS}, "name": "x"},
    "the original's parameters": {"string_to_token": {"*": torch.tensor(265)},
                                  "string_to_param": parameters()},
    "emb_params": {"emb_params": VECTORS},
    "token": {"<toy>": VECTORS},
    "list": [VECTORS[0], VECTORS[1]],
    "list of tables": [{"a": VECTORS[0]}, {"b": VECTORS[1]}],
    "bare": VECTORS,
}  # fmt: skip


def contexts(model, prompt: str) -> torch.Tensor:
    return model.prompt(prompt).context


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_vectors(model, tmp_path, layout):
    torch.save(LAYOUTS[layout], tmp_path / "toy.pt")
    wider = model.with_embedding(tmp_path / "toy.pt")
    (embedding,) = wider.adapters
    assert torch.equal(embedding.vectors, VECTORS)
    for name in ("toy", "Toy", "embedding:toy", *(["<toy>"] if layout == "token" else [])):
        encoding = wider.prompt(f"a {name} here").encoding
        first = model.config.text.vocab_size
        assert encoding.ids[:5] == (
            49406,
            320,
            first,
            first + 1,
            model.prompt("here").encoding.ids[1],
        )


def test_safetensors_and_one_vector(model, tmp_path):
    save_file({"emb_params": VECTORS[0].half()}, tmp_path / "toy.safetensors")
    (embedding,) = model.with_embedding(tmp_path / "toy.safetensors", "<my toy>").adapters
    assert embedding.phrases == ("toy", "embedding:toy", "<my toy>")
    assert torch.equal(embedding.vectors, VECTORS[:1].half().float())


def test_the_vectors_are_what_the_text_encoder_reads(model, tmp_path):
    """A word whose vectors are those of known tokens reads as they do; the plain model stays."""
    ids = model.prompt("red circle").encoding.ids[1:3]
    rows = model.text.embeddings.token_embedding.weight[list(ids)]
    save_file({"emb_params": rows.clone()}, tmp_path / "zzz.safetensors")
    wider = model.with_embedding(tmp_path / "zzz.safetensors")
    assert torch.equal(contexts(wider, "a zzz"), contexts(model, "a red circle"))
    assert not torch.equal(contexts(model, "a zzz"), contexts(model, "a red circle"))
    assert torch.equal(contexts(wider, "a dog"), contexts(model, "a dog"))
    assert wider.with_adapters().config == model.config
    noise = model.noise(1)
    expected = model.generate("a red circle", noise, negative="red circle", steps=2).latent
    assert torch.equal(wider.generate("a zzz", noise, negative="zzz", steps=2).latent, expected)


def test_several_words_of_one_file_and_of_several(model, tmp_path):
    save_file({"<a>": VECTORS[0].clone(), "<b>": VECTORS}, tmp_path / "two.safetensors")
    save_file({"emb_params": VECTORS[1]}, tmp_path / "toy.safetensors")
    wider = model.with_embedding(tmp_path / "two.safetensors").with_embedding(
        tmp_path / "toy.safetensors"
    )
    first = model.config.text.vocab_size
    assert wider.prompt("<a><b> toy").encoding.ids[1:5] == tuple(range(first, first + 4))
    with pytest.raises(UsageError, match="two embeddings are called 'toy'"):
        wider.with_embedding(tmp_path / "toy.safetensors")
    with pytest.raises(UsageError, match="holds 2 words"):
        model.with_embedding(tmp_path / "two.safetensors", "<c>")


def test_words_come_along_with_a_lora(model, tmp_path):
    path = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.diff"
    tensors = {path: torch.zeros(64, 64), "<s1>": VECTORS[0].clone(),
               "bundle_emb.toy.string_to_param.*": VECTORS}  # fmt: skip
    save_file(tensors, tmp_path / "style.safetensors")
    wider = model.with_lora(tmp_path / "style.safetensors")
    assert wider.adapters[0].lora.unused == ()
    first = model.config.text.vocab_size
    assert wider.prompt("<s1> toy").encoding.ids[1:4] == (first, first + 1, first + 2)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
def test_a_real_file():
    shapes = Components(SD15, empty(TextEncoder, SD15.text), None, empty(UNet, SD15.unet), None)
    (embedding,) = read_embeddings(REAL / "vaibhap1_learned_embeds.bin", shapes)
    assert embedding.vectors.shape == (1, 768)
    assert embedding.phrases[-1] == "<thumbs_up>"


BAD = {
    "SD 2": ({"emb_params": torch.zeros(1, 1024)}, "1024 wide, for Stable Diffusion 2.x"),
    "another width": ({"emb_params": torch.zeros(1, 31)}, "31 wide, for another model"),
    "SDXL": ({"clip_l": torch.zeros(1, 32), "clip_g": torch.zeros(1, 1280)}, "for SDXL"),
    "three axes": ({"emb_params": torch.zeros(1, 1, 32)}, "vectors are 32, or n x 32"),
    "no vectors": ({"emb_params": torch.zeros(0, 32)}, "vectors are 32, or n x 32"),
    "too many": ({"emb_params": torch.zeros(76, 32)}, "76 vectors, and a prompt has room for 75"),
    "not finite": ({"emb_params": torch.full((1, 32), torch.inf)}, "NaN or infinity"),
    "a LoRA": (
        {"unet.x.lora_A.weight": torch.zeros(2, 32)},
        "this is a LoRA, and not a textual inversion",
    ),
    "numbers of another kind": ({"a": torch.zeros(32, dtype=torch.int32)}, "no textual inversion"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_none_is_refused_in_one_line(model, tmp_path, case):
    tensors, message = BAD[case]
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ScratchError) as raised:
        model.with_embedding(tmp_path / "bad.safetensors")
    assert message in str(raised.value) and "\n" not in str(raised.value)


# Requests -------------------------------------------------------------------------------------

SMALL = ["--width=32", "--height=32", "--steps=2", "--seed=7"]


@pytest.fixture
def run(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("words").mkdir()
    save_file({"emb_params": 2 * VECTORS}, "words/toy.safetensors")
    save_file({"emb_params": torch.zeros(1, 1024)}, "words/other.safetensors")  # nobody names it
    return lambda *words: main(["generate", *words, "-m", str(tiny_folder), "--device=cpu"])


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_picture_with_a_word_and_again(run, capsys):
    assert run("a toy", *SMALL, "--embedding-dir=words", "-o", "a.png") == 0
    assert run("a <it>", *SMALL, "--embedding=words/toy.safetensors:<it>", "-o", "b.png") == 0
    assert run("a toy", *SMALL, "-o", "plain.png") == 0
    assert np.array_equal(pixels("a.png"), pixels("b.png"))
    assert not np.array_equal(pixels("a.png"), pixels("plain.png"))
    recipe, _ = read_recipe(Path("b.png"))
    (use,) = recipe.embeddings or ()
    assert (use.name, use.token, len(use.hash)) == ("toy", "<it>", 12)
    assert run("--from-image=b.png", "-o", "c.png") == 2
    assert "no embedding called 'toy' was found" in capsys.readouterr().err
    assert run("--from-image=b.png", "--embedding-dir=words", "-o", "d.png") == 0
    assert np.array_equal(pixels("a.png"), pixels("d.png"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a embedding:nothing", "--embedding-dir=words"), "no embedding called 'nothing'"),
        (("a embedding:toy",), "no embedding called 'toy'"),
        (("a", "--embedding=nowhere.pt"), "there is no such file"),
    ],
)
def test_a_word_that_is_asked_for_and_not_there(run, capsys, words, message):
    assert run(*words, *SMALL, "-o", "a.png") == 2
    assert message in capsys.readouterr().err


def test_recipes_keep_words():
    recipe = Recipe(
        "a toy", steps=3, syntax="plain", embeddings=(EmbeddingUse("toy", "<it>", "ddd48cd74131"),)
    )
    assert recipe_from_json(recipe.to_json(), "x.png") == recipe
    again, left = recipe_from_parameters(recipe.to_parameters(), "x.png")
    assert again.embeddings == (EmbeddingUse("toy", "", "ddd48cd74131"),) and left == ()
    with pytest.raises(ScratchError, match="`embeddings` must be"):
        recipe_from_json('{"prompt": "a", "embeddings": [["a", 1, ""]]}', "x.png")
