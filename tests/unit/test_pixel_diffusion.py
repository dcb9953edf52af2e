"""Sampling pixels: guidance, clipping, seeds, samplers, named tensors, and the folder of a model."""

import json

import numpy as np
import pytest
import torch

from sd_scratch.checkpoints.pixel_model import (
    PixelComponents,
    build_denoiser,
    load_classifier,
    load_pixel_model,
    save_classifier,
    save_pixel_model,
)
from sd_scratch.diffusion.samplers import SAMPLERS
from sd_scratch.errors import ScratchError
from sd_scratch.networks.classifier import Classifier
from sd_scratch.pipeline.pixel_diffusion import PixelDiffusion
from tests.digits import BETTER, JUDGE, PAPER_TINY, lively

CLASSES, SEEDS = [0, 7, None], [1, 2, 3]


def lively_components(preset=BETTER) -> PixelComponents:
    network = build_denoiser(preset.model)
    return PixelComponents(preset.model, lively(network))


@pytest.fixture(scope="module")
def model() -> PixelDiffusion:
    return PixelDiffusion(lively_components())


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("preset", [BETTER, PAPER_TINY], ids=["better", "paper"])
def test_every_sampler_makes_pictures(sampler, preset):
    model = PixelDiffusion(lively_components(preset))
    pictures = model.generate(CLASSES, SEEDS, sampler=sampler, steps=5)
    assert pictures.shape == (3, 1, 8, 8)
    assert pictures.isfinite().all() and pictures.abs().max() <= 1
    assert pictures.std() > 0.01


def test_a_picture_does_not_depend_on_its_batch(model):
    together = model.generate(CLASSES, SEEDS, sampler="ddpm", steps=5)
    alone = model.generate([7], [2], sampler="ddpm", steps=5)
    assert torch.allclose(together[1:2], alone, atol=1e-4)


def test_guidance_1_is_the_class_alone_and_0_no_class(model):
    free = model.generate([None], [1], guidance=1.0)
    assert torch.equal(free, model.generate([3], [1], guidance=0.0))
    cond = model.generate([3], [1], guidance=1.0)
    assert not torch.allclose(cond, free)
    assert torch.allclose(cond, model.generate([3], [1], guidance=1.000001), atol=1e-3)


def test_what_the_network_takes_for_the_picture_is_clipped(model):
    for step in model.steps([1], [5], guidance=9.0):
        assert step.x0.abs().max() <= 1 + 1e-3
    free = PixelDiffusion(lively_components(PAPER_TINY))
    assert any(step.x0.abs().max() > 1.1 for step in free.steps([1], [5], guidance=9.0))


def test_the_papers_pixels_begin_at_0():
    model = PixelDiffusion(lively_components(PAPER_TINY))
    pixels = torch.tensor([0.0, 0.5, 1.0, 2.0])
    assert model.to_picture(pixels).tolist() == [-1, 0, 1, 1]


def test_tensors_have_names_on_it_too(model):
    with model.record("unet.mid_block.attentions.0.probs", branch="cond") as trace:
        plain = model.generate([1, 2], [5, 6], steps=3)
    name = "unet.mid_block.attentions.0.probs"
    assert trace[name].tensor.shape == (3, 2, 2, 16, 16)  # step, picture, head, query, key
    with model.edit("unet.h", lambda h, at: 0 * h):
        edited = model.generate([1, 2], [5, 6], steps=3)
    assert not torch.allclose(plain, edited)
    assert torch.equal(plain, model.generate([1, 2], [5, 6], steps=3))


@pytest.mark.parametrize("preset", [BETTER, PAPER_TINY], ids=["better", "paper"])
def test_a_saved_model_is_the_same_model(tmp_path, preset):
    components = lively_components(preset)
    save_pixel_model(components, tmp_path, torch.float32)
    again = load_pixel_model(tmp_path)
    assert again.config == components.config
    pictures = [PixelDiffusion(c).generate(CLASSES, SEEDS, steps=3) for c in (components, again)]
    assert torch.equal(*pictures)

    save_pixel_model(components, tmp_path)  # half precision, over it
    half = load_pixel_model(tmp_path).network.state_dict()
    for key, value in components.network.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(half[key], value.half().float())


def test_a_saved_classifier_is_the_same_classifier(tmp_path):
    classifier = lively(Classifier(JUDGE.model))
    save_classifier(classifier, tmp_path, torch.float32)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(load_classifier(tmp_path)(x), classifier(x))


@pytest.mark.parametrize(
    ("classes", "seeds", "settings", "words"),
    [
        ([10], [1], {}, "class 10 is not in 0..9"),
        ([1, 2], [1], {}, "2 classes for 1 seeds"),
        ([], [], {}, "no seeds were given"),
        (1.5, [1], {}, "a class or one for each seed"),
        ([1], "7", {}, "a whole number or several"),
        ([1], None, {}, "a whole number or several"),
        ([1], [1], {"steps": 1001}, "from 1 to 1000"),
        ([1], [1], {"sampler": "dim"}, "did you mean ddim"),
    ],
)
def test_bad_settings_are_refused(model, classes, seeds, settings, words):
    with pytest.raises(ScratchError, match=words) as error:
        model.generate(classes, seeds, **settings)
    assert "\n" not in str(error.value)


def test_one_class_is_for_all_seeds_and_one_seed_is_a_seed(model):
    listed = model.generate([7, 7], [5, 6], steps=2)
    for one in (7, "7", np.int64(7)):
        assert torch.equal(model.generate(one, np.array([5, 6]), steps=2), listed)
    torch.testing.assert_close(model.generate(7, 5, steps=2), listed[:1])
    no_class = model.generate(None, 5, steps=2)
    assert torch.equal(no_class, model.generate([None], [5], steps=2))


def change(folder, **values) -> None:
    path = folder / "config.json"
    data = json.loads(path.read_text())
    for key, value in values.items():
        part = data["network"] if key in data["network"] else data
        part[key] = value
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "classifier"}, "holds a classifier where"),
        ({"kind": "other"}, "`kind` must be one of"),
        ({"block_out_channels": [8, 24]}, "of different models"),
        ({"block_out_channels": [8, 17]}, "a divisor of the width 17"),
        ({"attention": [1, 0]}, "times true or false"),
        ({"class_names": ["a"]}, "a list of 10 different names"),
        ({"low": 3}, "`low` must be a number"),
        ({"num_classes": -1}, "`num_classes` must be an integer"),
    ],
)
def test_folders_that_are_wrong(tmp_path, values, words):
    save_pixel_model(lively_components(), tmp_path)
    change(tmp_path, **values)
    with pytest.raises(ScratchError, match=words):
        load_pixel_model(tmp_path)


def test_a_cut_file_and_a_missing_folder(tmp_path):
    with pytest.raises(ScratchError, match="no model of pixels"):
        load_pixel_model(tmp_path / "none")
    save_pixel_model(lively_components(), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ScratchError, match="cut short"):
        load_pixel_model(tmp_path)


def test_guidance_and_sampler_have_names_too(model: PixelDiffusion) -> None:
    with model.record("sampler.x0", "guidance.pred_*", "unet.pred") as trace:
        steps = list(model.steps(CLASSES[:1], SEEDS[:1], steps=3, guidance=2.0))
    shown = trace["sampler.x0"]
    assert shown.calls == (0, 1, 2) and torch.equal(shown.tensor[-1], steps[-1].x0)
    assert trace["unet.pred"].branches == ("uncond", "cond")


def test_an_edit_of_the_sample_is_what_the_run_goes_on_from(model: PixelDiffusion) -> None:
    with model.edit("sampler.x_next", lambda x, where: torch.zeros_like(x), calls=-1):
        pixels = model.generate(CLASSES, SEEDS, steps=3)
    assert torch.equal(pixels, model.to_picture(torch.zeros_like(pixels)))
