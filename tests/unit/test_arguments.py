"""What people pass to the Python functions: taken for what it means, or refused by its name."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

import sd_scratch as sd
from sd_scratch.errors import UsageError
from sd_scratch.limits import read_integer, read_number, whole
from sd_scratch.mapping.field import read_points
from sd_scratch.mapping.movement import read_path
from sd_scratch.pictures.hints import low_high
from sd_scratch.pipeline.device import find_device, find_dtype
from sd_scratch.tensors import Editor, Recorder
from sd_scratch.tensors.record import budget_bytes
from sd_scratch.tensors.trace import Address
from tests.tiny import tiny_model

S = {"steps": 2, "sampler": "ddim"}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize(
    "value", [3, 3.0, np.int64(3), np.uint8(3), np.float32(3), torch.tensor(3), np.array(3)]
)
def test_whole_numbers_are_whole_numbers(model, value):
    assert whole(value) == 3
    assert torch.equal(model.noise(value).latent, model.noise(3).latent)
    assert len(list(model.steps("a", model.noise(1), steps=value, sampler="ddim"))) == 3


@pytest.mark.parametrize("value", [True, "3", 3.5, float("nan"), float("inf"), None, [3], 2j])
def test_nothing_else_is(value):
    assert whole(value) is None


ODD = ["１", "٣", "1_0", "²", "", "x", "nan", "inf", "1,5", "0x1", "9" * 5000]


@pytest.mark.parametrize("text", ODD[:-1])
def test_numbers_are_written_in_ascii_digits(text):
    assert read_integer(text) is read_number(text) is None
    for read in (
        low_high,
        budget_bytes,
        lambda t: read_points([f"{t}:1"]),
        lambda t: Address.parse(f"a@{t or 'x'}"),
    ):
        with pytest.raises(UsageError):
            read(text)
    with pytest.raises(UsageError, match="no place"):
        read_path([text, text], 2)


def test_every_way_to_write_a_number():
    assert [*map(read_integer, (" 12 ", "-3", "+4", ODD[-1]))] == [12, -3, 4, None]
    assert [*map(read_number, ("1", "-.5", "2.", "1e-3", "1e999"))] == [1, -0.5, 2, 1e-3, np.inf]


def test_several_seeds_and_sides(model):
    expected = model.noise([0, 1], 64, 64).latent
    for seeds in (np.arange(2), torch.arange(2), range(2), (0, 1)):
        assert torch.equal(model.noise(seeds, 64.0, np.int32(64)).latent, expected)


def test_texts_are_taken_wherever_prompts_are(model):
    noise = model.noise([1, 2])
    cat, dog = model.prompt("a cat"), model.prompt("a dog")
    want = model.generate([cat, dog], noise, negative=[dog, cat], **S).latent
    assert torch.equal(
        model.generate(["a cat", dog], noise, negative=["a dog", "a cat"], **S).latent, want
    )
    *_, last = model.steps("a cat", noise, **S)
    assert torch.equal(last.x_next, model.generate(cat, noise, negative=None, **S).latent)


WHITE = Image.new("L", (64, 64), 255)


def latent(model, tensor):
    return model.noise(1).with_latent(tensor)


def edited(model, edit, **where):
    with model.edit("unet.h", edit, **where):
        return model.generate("a", model.noise(1), **S).latent


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.generate(["a"] * 3, m.noise([1, 2])), "3 prompts for 2 images"),
        (lambda m: m.generate([], m.noise(1)), "0 prompts for 1 images"),
        (lambda m: m.generate(3, m.noise(1)), "prompt: give a text"),
        (lambda m: m.prompt(None), "text: give a text to encode, not NoneType"),
        (lambda m: m.generate("a", 7), "noise: give an ImageNoise, .*not int"),
        (lambda m: m.generate("a", torch.zeros(1, 4, 8, 8)), "noise: .*with_latent"),
        (lambda m: m.generate("a", m.noise(1), guidance="x"), "guidance 'x' is not a number"),
        (lambda m: m.generate("a", m.noise(1), guidance_rescale=None), "guidance_rescale None"),
        (lambda m: m.begin(m.noise(1), strength="0.5"), "strength '0.5' is not a number"),
        (lambda m: list(m.run({"prompt": "a"})), "recipe: give a Recipe or a prompt, not dict"),
        (lambda m: m.record(5), "globs: give tensors' names as texts, not 5"),
        (lambda m: m.record("unet.h", reduce="heads"), "reduce: give some of sd.reductions"),
        (lambda m: m.record("unet.h", steps=3), "the name is calls"),
        (lambda m: m.edit("unet.h", sd.edits.scale(2), steps=3), "the name is calls"),
        (lambda m: Recorder(m.taps, "unet.h", steps=3), "the name is calls"),
        (lambda m: Editor(m.taps, "unet.h", sd.edits.scale(2), steps=3), "the name is calls"),
        (lambda m: m.edit("unet.h", 3), "function: give one of sd.edits"),
        (lambda m: m.edit(5, sd.edits.scale(2)), "globs: give tensors' names as texts, not 5"),
        (lambda m: sd.edits.reweight("red"), "factors: give a factor for each word"),
        (lambda m: sd.load_pixels("mnist"), "shipped ones are .*ddpm-mnist"),
        (lambda m: m.generate([3], m.noise(1)), "prompt: give texts"),
        (lambda m: m.generate("a", m.noise(1), negative=7), "negative: give a text"),
        (lambda m: m.noise("3"), "seed '3'"),
        (lambda m: m.noise([]), "no seeds"),
        (lambda m: m.noise(1, "64"), "width '64'"),
        (lambda m: m.encode([]), "no picture"),
        (
            lambda m: m.encode([Image.new("RGB", (64, 64)), Image.new("RGB", (32, 64))]),
            "64x64, 32x64",
        ),
        (lambda m: m.encode("a.png"), "a picture is one of Pillow's"),
        (lambda m: m.encode(None), "a picture is one of Pillow's"),
        (lambda m: m.encode(Image.new("RGB", (64, 64)), seed=-1), "seed -1"),
        (lambda m: m.noise(1, drawing="nv"), "drawing: give a sd.Drawing"),
        (lambda m: m.noise(1).noised("x"), "t = x is no timestep"),
        (lambda m: m.begin(Image.new("RGB", (64, 64))), "noise: give an ImageNoise"),
        (lambda m: m.begin(m.noise(1), steps="x"), "'x' steps cannot be taken"),
        (lambda m: m.prompt("a", clip_skip="1"), "clip skip 1 is not in"),
        (lambda m: m.canvas(5), "a picture is one of Pillow's"),
        (lambda m: m.canvas(WHITE, np.ones((64, 64), np.uint8)), "a mask is a picture or an array"),
        (lambda m: m.canvas(WHITE, WHITE, feather="4"), "a feather of 4"),
        (lambda m: m.generate("a", m.noise(1), canvas=WHITE), "canvas: give one of model.canvas"),
        (lambda m: m.generate("a", m.noise(1), control=WHITE), "control: give a sd.Control"),
        (lambda m: m.generate("a", m.noise(1), fast=3), "fast: 3 is unknown"),
        (lambda m: m.generate("a", m.noise(1), schedule=np.ones(2)), "schedule .* is unknown"),
        (lambda m: m.generate("a", m.noise(1), sampler="ddim", eta=[1]), "eta is a number, not"),
        (lambda m: m.generate("a", m.noise(1), sampler="ddim", eta=10**400), "eta is a number"),
        (lambda m: m.generate("a", latent(m, torch.zeros(1, 3, 8, 8))), r"is Tensor \[1, 3, 8, 8"),
        (lambda m: m.generate("a", latent(m, torch.zeros(2, 4, 8, 8))), r"\[1, 4, height, width"),
        (
            lambda m: m.generate("a", latent(m, np.zeros((1, 4, 8, 8)))),
            "noise: its latent is ndarray",
        ),
        (lambda m: m.record("unet.h", calls="0"), "calls: give numbers of calls"),
        (lambda m: m.record("unet.h", dtype="half"), "dtype: give one of torch's"),
        (lambda m: m.record("unet.h", to="gpu"), "to: give a device, not 'gpu'"),
        (lambda m: m.record("unet.h", budget=None), "'None' is no budget"),
        (lambda m: list(m.run(sd.Recipe(None))), "text: give a text"),
        (lambda m: list(m.run(sd.Recipe("a", seed="7"))), "seed 7 is not in"),
        (lambda m: list(m.run(sd.Recipe("a", guidance="7"))), "guidance 7 is not in"),
        (lambda m: list(m.run(sd.Recipe("a", sampler=5))), "sampler: give a text"),
        (lambda m: list(m.run(sd.Recipe("a", hires_scale="2"))), "hires scale 2 is not in"),
        (lambda m: m.tensors("unet.h", width=15), "side 15 is not a positive multiple"),
        (lambda m: m.with_lora("x.safetensors", float("nan")), "scale nan is not a number"),
        (lambda m: m.with_lora(5), "5 - not a path"),
        (lambda m: sd.load_pixels(None), "None - not a path"),
        (lambda m: sd.Trace.load(5), "5 - not a path"),
        (lambda m: sd.edits.patch("folder"), "give a recorded trace"),
        (lambda m: edited(m, sd.edits.scale("2")), "the edit of unet.h, Scale.*cannot be made"),
        (lambda m: edited(m, sd.edits.scale(2), branch="con"), "the run has no branch 'con'"),
        (
            lambda m: edited(m, sd.edits.scale(2), calls=slice(9, None)),
            "the run has 2 calls, and none",
        ),
        (lambda m: m.encode(np.zeros((64, 64, 3))), "of uint8"),
        (lambda m: sd.load("scenes", dtype="float15"), "dtype 'float15'"),
        (lambda m: sd.load("scenes", device="gpu"), "device gpu"),
        (lambda m: sd.load("ddpm-mnist"), "load_pixels"),
    ],
)
def test_a_plausible_wrong_call_is_answered_by_name(model, call, message):
    with pytest.raises(UsageError, match=message):
        call(model)


def test_pictures_as_arrays(model):
    grey = np.full((64, 64, 3), 99, np.uint8)
    want = model.encode(Image.fromarray(grey)).latent
    assert torch.equal(model.encode(grey).latent, want)
    assert torch.equal(
        model.encode([grey, grey]).latent[1:], model.encode(grey[None].repeat(2, 0)).latent[1:]
    )


def test_numbers_of_numpy_and_texts_for_what_they_mean(model):
    noise, same = model.noise(1), torch.equal
    prompts = [model.prompt("a", clip_skip=skip).context for skip in (2, np.int64(2))]
    assert same(*prompts)
    pictures = [
        model.generate("a", noise, **S, eta=eta).latent for eta in (0.5, np.float64(0.5), "0.5")
    ]
    assert same(*pictures[:2]) and same(*pictures[1:])
    assert same(*(edited(model, sd.edits.scale(2), calls=c) for c in (1, np.int64(1))))
    numpy = sd.Recipe("a", seed=np.int64(1), guidance=np.float32(2), **S, width=np.int32(64))
    (made,) = model.run(numpy)
    assert '"seed": 1, ' in made.recipes[0].to_json() and '"width": 64' in made.recipes[0].to_json()
    with model.record("unet.h", calls=np.int64(1), dtype="float16", budget=1e9) as trace:
        model.generate("a", noise, **S)
    assert trace["unet.h"].calls == (1,) and trace["unet.h"].tensor.dtype == torch.float16


def test_devices_and_dtypes_by_name():
    assert (
        find_dtype("bf16") == find_dtype("bfloat16") == find_dtype(torch.bfloat16) == torch.bfloat16
    )
    assert find_device("cpu") == find_device(torch.device("cpu")) == torch.device("cpu")
    assert find_device().type in ("cuda", "mps", "cpu")


def test_each_prompt_of_a_batch_keeps_its_clip_skip_under_an_edit(model):
    prompts = [
        model.prompt("a cat"),
        model.prompt("a cat", clip_skip=2),
        model.prompt("a", clip_skip=3),
    ]
    noise = model.noise([1, 2, 3])
    want = model.generate(prompts, noise, **S).latent
    with model.edit("text.embeddings.token_embedding", lambda x, at: x.clone()):
        got = model.generate(prompts, noise, **S).latent
    assert (got - want).abs().max() < 1e-4


def test_decoding_changes_nothing_that_others_see(model):
    """A decoder that overflows in half precision is not cast where other threads see it."""
    half = tiny_model()
    vae = half.vae.half()
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(3e4)
    image = model.noise(1)
    latent = type(image)(image.latent, 0, image.seeds, vae, image.schedule)
    want, got = latent.decode(), []
    threads = [threading.Thread(target=lambda: got.append(latent.decode())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4 and all(torch.equal(x, want) for x in got)
    assert {p.dtype for p in vae.parameters()} == {torch.float16}
