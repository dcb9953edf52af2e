"""Kernels are chosen by measuring, once for a machine; the choice changes speed and nothing else."""

import json
from inspect import signature

import pytest
import torch

import sd_scratch as sd
from sd_scratch.cli import main
from sd_scratch.errors import UsageError
from sd_scratch.limits import TUNING
from sd_scratch.networks import kernels
from sd_scratch.networks.kernels import Cells, Shape, by_rule, choose_by_rule, measure
from sd_scratch.networks.layers import Conv2d, Linear, prefer_convolutions
from sd_scratch.pipeline import tuning
from sd_scratch.pipeline.stable_diffusion import StableDiffusion
from sd_scratch.pipeline.tuning import Choices
from tests.tiny import tiny_components, tiny_model

CELLS = Cells(product=32, tiles=512)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def large(monkeypatch):
    """Every network counts as worth measuring."""
    monkeypatch.setattr(kernels, "SMALL", 0)
    monkeypatch.setattr(tuning, "measure_cells", lambda *_: CELLS)


def linears(model) -> list[Linear]:
    return [m for n in model.networks.values() for m in n.modules() if isinstance(m, Linear)]


def refuse(*_: object) -> dict[Shape, bool]:
    raise AssertionError("measured")


def test_python_and_the_command_line_have_one_default():
    assert signature(sd.load).parameters["tune"].default == TUNING[0]
    assert signature(tuning.tune).parameters["effort"].default == TUNING[0]


def test_small_models_go_by_a_fixed_rule(monkeypatch):
    monkeypatch.setattr(tuning, "measure", refuse)
    components = tiny_components()
    for effort in TUNING:
        tuning.tune(components, effort)
    assert all(layer.by_convolution is None for layer in linears(components))
    assert all(layer.by_convolution for layer in linears(StableDiffusion(components)))


def test_the_layers_of_a_large_text_encoder_are_products(large):
    model = tiny_model()
    assert not by_rule(model.text) and by_rule(model.unet)
    prefer_convolutions(model.text, None)
    choose_by_rule(model.text, True)
    assert {m.by_convolution for m in model.text.modules() if isinstance(m, Linear)} == {False}


def test_a_model_leaves_the_choices_of_another_on_the_same_networks():
    components = tiny_components()
    prefer_convolutions(components.unet, False)
    first = StableDiffusion(components)
    assert not first.unet.time_embedding.linear_1.by_convolution
    choose_by_rule(first.text, False)
    StableDiffusion(components)
    assert not first.unet.time_embedding.linear_1.by_convolution
    assert first.text.encoder.layers[0].mlp.fc1.by_convolution


def test_what_was_measured_is_remembered_and_decides(large, monkeypatch, cache):
    components = tiny_components()
    expected = tiny_model().generate("a cat", tiny_model().noise(1), steps=2).latent
    asked: list[Shape] = []

    def odd_rows_first(layers, rounds, seconds):
        asked.extend(layers)
        return {shape: shape.rows > 200 for shape in layers if shape.rows != 2}

    monkeypatch.setattr(tuning, "measure", odd_rows_first)
    tuning.tune(components)
    model = StableDiffusion(components)
    transformer = model.unet.down_blocks[0].attentions[0].transformer_blocks[0]
    assert transformer.attn1.to_q.by_convolution  # 2 x 16 x 16 rows
    assert not transformer.attn2.to_k.by_convolution  # 2 x 77 rows
    assert model.unet.mid_block.resnets[0].conv1.product_cells == 32
    assert model.unet.time_embedding.linear_1.by_convolution  # not measured: the rule
    latent = model.generate("a cat", model.noise(1), steps=2).latent
    assert (latent - expected).abs().max() < 1e-4
    assert {shape.rows for shape in asked} >= {2, 154, 512}

    monkeypatch.setattr(tuning, "measure", refuse)
    monkeypatch.setattr(tuning, "shapes_of", refuse)
    again = tiny_components()
    tuning.tune(again)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    same = StableDiffusion(again)
    assert torch.equal(same.generate("a cat", same.noise(1), steps=2).latent, latent)
    monkeypatch.setattr(kernels, "SMALL", 0)
    monkeypatch.setattr(tuning, "measure_cells", refuse)
    with pytest.raises(AssertionError, match="measured"):
        tuning.tune(tiny_components(), "full")


def test_weights_that_are_kept_in_half_are_measured_as_they_are_computed(large, monkeypatch):
    components = tiny_components()
    for layer in components.unet.modules():
        if isinstance(layer, Conv2d | Linear):
            layer.weight.data = layer.weight.data.half()
    kernels.measure_cells(components.unet, 2, 2)  # in fp32
    tuning.tune(components)
    assert components.unet.mid_block.resnets[0].conv1.product_cells == 32


@pytest.mark.parametrize("sides", [(64, 64), (72, 40)])
def test_the_shapes_are_those_of_a_guided_call(sides):
    model = tiny_model()
    seen: dict[Linear, int] = {}

    def note(layer, inputs):
        seen[layer] = inputs[0].numel() // layer.in_features

    layers = [m for n in (model.text, model.unet) for m in n.modules() if isinstance(m, Linear)]
    for layer in layers:
        layer.register_forward_pre_hook(note)
    prompts = [model.prompt("a cat"), model.prompt("a dog")]
    model.generate(prompts[0], model.noise(1, *sides), negative=prompts[1], steps=1)
    shapes = tuning.shapes_of(model.components, *sides)
    told = {layer: shape.rows for shape, same in shapes.items() for layer in same}
    assert told.keys() == set(layers)
    text = {m for m in model.text.modules() if isinstance(m, Linear)}
    assert all(told[m] == (154 if m in text else seen[m]) for m in layers)


@pytest.mark.parametrize("damage", ["", "[]", '{"machine": 1}', "other threads"])
def test_a_cache_that_does_not_fit_is_made_anew(large, monkeypatch, damage):
    monkeypatch.setattr(tuning, "measure", lambda layers, *_: dict.fromkeys(layers, True))
    tuning.tune(tiny_components())
    file = tuning.choices_file()
    data = json.loads(file.read_text())
    assert data["machine"] == tuning.this_machine() and all(data["convolution"].values())
    other = json.dumps({**data, "machine": {**data["machine"], "threads": 999}})
    file.write_text(other if damage == "other threads" else damage)
    assert tuning.read_choices() == Choices()
    tuning.tune(tiny_components())
    assert json.loads(file.read_text()) == data


def test_where_nothing_can_be_remembered_the_rule_is_followed(large, monkeypatch, cache):
    (cache / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    monkeypatch.setattr(tuning, "measure", lambda layers, *_: dict.fromkeys(layers, False))
    components = tiny_components()
    tuning.tune(components)
    assert StableDiffusion(components).unet.time_embedding.linear_1.by_convolution


def test_what_a_busy_machine_says_is_neither_followed_nor_remembered(large, monkeypatch):
    monkeypatch.setattr(tuning, "measure", lambda layers, *_: dict.fromkeys(layers))
    components = tiny_components()
    tuning.tune(components)
    assert all(layer.by_convolution is None for layer in linears(components))
    assert tuning.read_choices() == Choices(cells={64: CELLS})  # the convolutions' times agreed


@pytest.mark.parametrize(
    "seconds, expected",
    [([9, 1, 1, 0.5, 2, 0.4], True), ([1, 1, 1, 2, 1, 1.2], False), ([1, 1, 1, 0.6, 1, 1.4], None)],
)
def test_times_decide_where_they_agree(monkeypatch, seconds, expected):
    pairs = zip(seconds[::2], seconds[1::2], strict=True)
    ticks = iter([tick for first, second in pairs for tick in (0, first, first + second)])
    monkeypatch.setattr(kernels, "perf_counter", lambda: next(ticks))
    assert kernels.second_is_faster([(torch.square, torch.square)], torch.ones(1), 3) is expected


def test_convolutions_are_measured_as_products_and_in_tiles():
    cells = kernels.measure_cells(tiny_components().unet, 2, 2)
    assert cells.product in (0, 32, 128) and cells.tiles in (0, 512, 2048)


@pytest.mark.parametrize(
    "times, expected",
    [
        ([0.5, 0.5, 1.5], Cells(32, 512)),  # tiles at 16x16, products at 4x4, at 8x8
        ([1.5, 0.9, 1.5], Cells(0, 2048)),  # tiles at 16x16, at 32x32, products at 4x4
        ([1.5, 1.5, 0.5, 0.5], Cells(128, 0)),
    ],
)
def test_for_how_many_cells_depends_on_where_it_gains(monkeypatch, times, expected):
    answers = iter(times)
    monkeypatch.setattr(
        kernels, "in_turn", lambda *_: [(9.0, 9.0), (1.0, least := next(answers)), (7.0, 2 * least)]
    )
    assert kernels.measure_cells(tiny_components().unet, 2, 3) == expected


def test_measuring_takes_both_ways_of_a_layer_and_ends_in_time():
    layers = {Shape(64, 32, 16): [Linear(32, 16)], Shape(8, 32, 16): [Linear(32, 16)]}
    state = torch.random.get_rng_state()
    assert measure(layers, 2, 60.0).keys() == layers.keys()
    assert measure(layers, 2, -1.0) == {}
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(layer.by_convolution is None for same in layers.values() for layer in same)


def test_doctor_shows_what_was_measured(large, monkeypatch, capsys):
    assert main(["doctor"]) == 0
    assert "nothing was measured yet" in capsys.readouterr().out
    tuning.write_choices(Choices({Shape(2, 3, 4): True, Shape(5, 6, 7): False}))
    assert main(["doctor"]) == 0
    assert "of 2 shapes 1 are faster as convolutions, 1 as products" in capsys.readouterr().out
    found = {64: Cells(0, 512), 1280: Cells(128, 0)}
    tuning.write_choices(Choices({Shape(2, 3, 4): True}, cells=found))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "of 64 channels as products up to 0 cells, in tiles from 512 on" in out
    assert "of 1280 channels as products up to 128 cells, never in tiles" in out


def test_another_effort_is_refused():
    with pytest.raises(UsageError, match="tuning 'hard' is unknown - use quick, full, off"):
        tuning.tune(tiny_components(), "hard")
