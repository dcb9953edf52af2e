"""The pair of scenes in transformers: the same folder, the same vectors and scores."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from sd_scratch.checkpoints.clip import ClipModel, load_clip, prepare, save_clip
from sd_scratch.config import SCENES_CLIP
from sd_scratch.mapping.clip_score import clip_scores
from sd_scratch.networks.image_encoder import Clip
from sd_scratch.scenes.captions import full_caption
from sd_scratch.scenes.graph import sample_scene
from sd_scratch.scenes.render import render
from sd_scratch.text.tokenizer import Tokenizer
from tests.lively import liven

transformers = pytest.importorskip("transformers")

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
SHIPPED = WEIGHTS / "scenes-clip"


@pytest.fixture(
    scope="module",
    params=[
        "random",
        pytest.param(
            "shipped", marks=pytest.mark.skipif(not SHIPPED.is_dir(), reason="not shipped yet")
        ),
    ],
)
def folder(request, tmp_path_factory) -> Path:
    if request.param == "shipped":
        return SHIPPED
    path = tmp_path_factory.mktemp("pair")
    network = liven(Clip(SCENES_CLIP), 3)
    network.logit_scale.data.fill_(4.0)
    words = Tokenizer.from_folder(WEIGHTS / "scenes" / "tokenizer", 32)
    save_clip(ClipModel(network, words, "random"), path, torch.float32)
    return path


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    images = render([sample_scene(8, i) for i in range(6)], 64).images
    return ((images + 1) * 127.5).round().byte()


def test_vectors_and_scores_are_those_of_transformers(folder, pixels):
    ours = load_clip(str(folder))
    theirs = transformers.CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [full_caption(sample_scene(8, i)) for i in range(6)] + ["a star", ""]
    words = transformers.CLIPTokenizer.from_pretrained(folder)
    ids = words(texts, padding="max_length", max_length=32, return_tensors="pt").input_ids
    assert ids.tolist() == [list(ours.tokenizer.encode(text).ids) for text in texts]
    with torch.no_grad():
        answer = theirs(input_ids=ids, pixel_values=prepare(pixels, 64))
        image = ours.network.image_vectors(prepare(pixels, 64))
        text = ours.network.text_vectors(ids)
    assert (image - answer.image_embeds).abs().max() <= 1e-5
    assert (text - answer.text_embeds).abs().max() <= 1e-5
    scores = torch.stack([clip_scores(ours, pixels, text) for text in texts], dim=1)
    assert (scores - answer.logits_per_image).abs().max() <= 1e-3  # of -100..100
    assert scores.std() > 1


def test_its_preprocessor_prepares_pictures_alike(folder, pixels):
    processor = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).resize((100, 80))
    theirs = processor.CLIPImageProcessorPil.from_pretrained(folder)
    expected = theirs(picture, return_tensors="pt")["pixel_values"]
    array = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(80, 100, 3)
    ours = prepare(array.permute(2, 0, 1)[None], 64)
    assert (ours - expected).abs().max() <= 1e-5
