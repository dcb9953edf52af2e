"""CLIP against transformers: the same random weights, the same pictures, the same texts."""

import numpy as np
import pytest
import torch
from PIL import Image

from sd_scratch.checkpoints.clip import load_clip, prepare
from sd_scratch.config import ClipConfig
from sd_scratch.errors import ScratchError
from sd_scratch.mapping.clip_score import clip_scores
from sd_scratch.networks.image_encoder import Clip
from tests.lively import liven

transformers = pytest.importorskip("transformers")

TEXT = {
    "vocab_size": 49408,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "eos_token_id": 49407,
}
IMAGE = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}


@pytest.fixture(scope="module")
def theirs():
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=IMAGE, projection_dim=24)
    model = liven(transformers.CLIPModel(config), 5)
    model.logit_scale.data.fill_(np.log(100.0))
    return model


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    theirs.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pixels():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 3, 50, 83), generator=generator, dtype=torch.uint8)


def test_vectors_and_scores(theirs, folder, pixels):
    clip = load_clip(str(folder))
    texts = ["a red circle", "two catamarans on a lake at night"]
    ids = torch.tensor([clip.tokenizer.encode(text).ids for text in texts])
    pictures = prepare(pixels, 64)
    with torch.no_grad():
        answer = theirs(input_ids=ids, pixel_values=pictures)
        image = clip.network.image_vectors(pictures)
        text = clip.network.text_vectors(ids)
    assert (image - answer.image_embeds).abs().max() <= 1e-5
    assert (text - answer.text_embeds).abs().max() <= 1e-5
    scores = torch.stack([clip_scores(clip, pixels, text) for text in texts], dim=1)
    assert (scores - answer.logits_per_image).abs().max() <= 1e-3  # of -100..100
    assert scores.std() > 1


@pytest.mark.parametrize("size", [(50, 83), (120, 64), (64, 64), (512, 512), (33, 200)])
def test_pictures_are_prepared_alike(size):
    processor = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    array = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = processor.CLIPImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    )(Image.fromarray(array), return_tensors="pt")["pixel_values"]
    ours = prepare(torch.from_numpy(array).permute(2, 0, 1)[None], 64)
    assert (ours - expected).abs().max() <= 1e-5


def test_a_pickle_of_tensors_is_read_and_nothing_else(theirs, folder, tmp_path, pixels):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    same = clip_scores(load_clip(str(tmp_path)), pixels, "a cat")
    assert torch.equal(same, clip_scores(load_clip(str(folder)), pixels, "a cat"))
    torch.save({"text_model": print}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ScratchError, match="more than tensors.*builtins.print"):
        load_clip(str(tmp_path))


def test_vit_b_32_has_the_names_and_shapes_of_openais():
    with torch.device("meta"):
        ours = Clip(ClipConfig())
        reference = transformers.CLIPModel(transformers.CLIPConfig())
    shapes = {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == shapes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('"model_type": "bert"', "`model_type` must be clip"),
        ('"projection_dim": 25', "text_projection.weight is 24x32 and the network needs 25x32"),
        ('"projection_dim": "wide"', "`projection_dim` must be an integer"),
    ],
)
def test_what_is_no_clip_is_refused(folder, tmp_path, change, message):
    key = change.split(":")[0]
    lines = (folder / "config.json").read_text().splitlines()
    lines = [
        f"  {change}," if line.startswith(f"  {key}") and line.endswith(",") else line
        for line in lines
    ]
    (tmp_path / "config.json").write_text("\n".join(lines))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ScratchError, match=message):
        load_clip(str(tmp_path))


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(ScratchError, match="no folder, and no hub id"):
        load_clip("nothing")
    with pytest.raises(ScratchError, match="cannot be had from the hub"):
        load_clip("nobody/nothing", offline=True)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ScratchError, match="neither"):
        load_clip(str(tmp_path))
