"""Compiled calls are made once, found again, refused where they do not fit, and left aside where somebody listens.

Compiling takes minutes: an exported program that runs as it is takes the place of a compiled one.
"""

import json
import logging
import shutil
from dataclasses import replace

import pytest
import torch
from torch.func import functional_call

from sd_scratch.cli.load import COMPILERS
from sd_scratch.config import TINY
from sd_scratch.networks.layers import make_seamless, prefer_convolutions
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline import stored_graphs
from sd_scratch.pipeline.stored_graphs import StoredGraphs
from tests.tiny import tiny_model

SETTINGS = {"steps": 1, "sampler": "ddim"}
PROGRAMS = []


class Graph:
    """A program and what is stored beside it, as PyTorch hands them back."""

    def __init__(self, number, facts):
        self.network, self.facts = PROGRAMS[number].module(), facts

    def get_metadata(self):
        return self.facts

    def get_constant_fqns(self):
        return list(self.network.state_dict())

    def load_constants(self, constants, check_full_update, user_managed):
        assert check_full_update and user_managed
        self.constants = constants

    def __call__(self, *inputs):
        return functional_call(self.network, self.constants, inputs)


def store(program, path, facts):
    PROGRAMS.append(program)
    path.write_text(json.dumps([len(PROGRAMS) - 1, dict(facts)]))


def load(path):
    return Graph(*json.loads(path.read_text()))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model whose calls go by graphs, what they are layer by layer, and the one graph's folder."""
    cache = tmp_path_factory.mktemp("cache")
    model = tiny_model()
    prefer_convolutions(model.unet)
    model.unet.mid_block.resnets[0].conv1.tile_cells = 1
    plain = latent(model)
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch, cache)
        model.unet.compiled_call = StoredGraphs(model.unet)
        compiled = latent(model)
    return model, plain, compiled, cache


@pytest.fixture
def again(made, tmp_path, monkeypatch):
    """The same at another start, in a copy of the folder; and the graph's file."""
    model, plain, compiled, cache = made
    prepare(monkeypatch, tmp_path / "cache")
    shutil.copytree(cache, tmp_path / "cache")
    model.unet.compiled_call = StoredGraphs(model.unet)
    (file,) = (tmp_path / "cache").rglob("*.pt2")
    return model, plain, compiled, file


def prepare(patch, cache):
    patch.setenv("XDG_CACHE_HOME", str(cache))
    patch.setattr(stored_graphs, "store_graph", store)
    patch.setattr(stored_graphs, "load_graph", load)


def latent(model):
    return model.generate(model.prompt("a red circle"), model.noise(1), **SETTINGS).latent


def test_a_graph_computes_the_same_with_weights_packed(again):
    model, plain, compiled, file = again
    assert (compiled - plain).abs().max() < 1e-4 * plain.abs().max()  # another order of sums
    packed = json.loads(json.loads(file.read_text())[1]["convolutions"])
    assert packed["conv_in.weight"][0] == [1, 1]
    assert "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight" in packed
    assert "mid_block.resnets.0.conv1.weight" not in packed  # in tiles, as layer by layer
    calls = {node.target for node in PROGRAMS[0].graph.nodes}
    assert torch.ops.sd_scratch.convolve_in_tiles.default in calls


@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler is installed")
def test_a_graph_is_compiled_and_found_again(tmp_path, monkeypatch):
    """By PyTorch's compiler, once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one_level = {"block_out_channels": (32,), "cross_attention": (False,)}
    unet = UNet(replace(TINY.unet, **one_level)).eval().requires_grad_(False)
    unet.mid_block.resnets[0].conv1.tile_cells = 1
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([1.0, 500.0]), torch.randn(2, 5, 32)
    plain = unet(*inputs)
    compiled = StoredGraphs(unet)(*inputs)
    assert not torch.equal(compiled, plain)
    assert (compiled - plain).abs().max() < 1e-5
    monkeypatch.setattr(stored_graphs, "_make", None)
    assert torch.equal(StoredGraphs(unet)(*inputs), compiled)


def test_a_graph_is_found_again(again, monkeypatch):
    model, _, compiled, _ = again
    monkeypatch.setattr(stored_graphs, "store_graph", None)
    assert torch.equal(latent(model), compiled)


@pytest.mark.parametrize("damage", ["not a graph", '[0, {"sd_scratch": "of another machine"}]'])
def test_a_graph_that_does_not_fit_is_refused_in_a_line_and_made_again(
    again, damage, monkeypatch, caplog
):
    model, _, compiled, file = again
    good, made = file.read_text(), []
    monkeypatch.setattr(
        stored_graphs, "_make", lambda *given: made.append(given) or file.write_text(good)
    )
    file.write_text(damage)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(latent(model), compiled)
    assert len(made) == 1
    (line,) = caplog.messages
    assert str(file) in line and line.endswith("it is made again") and "\n" not in line


def test_who_listens_hears_and_changes_the_picture(again):
    model, plain, compiled, _ = again
    with model.record("unet.conv_in") as trace:
        heard = latent(model)
    assert torch.equal(heard, plain)  # layer by layer
    assert trace["unet.conv_in"].tensor.abs().sum() > 0
    with model.edit("unet.h", lambda x, at: 0 * x):
        assert not torch.allclose(latent(model), plain, rtol=1e-2, atol=1e-2)
    assert torch.equal(latent(model), compiled)


def test_gradients_and_controls_are_computed_layer_by_layer(again):
    model, _, _, _ = again
    config = model.config.unet
    x = torch.ones(1, config.in_channels, 8, 8, requires_grad=True)
    context = torch.ones(1, 77, config.cross_attention_dim)
    model.unet(x, torch.ones(1), context).sum().backward()
    assert x.grad.abs().sum() > 0


def test_what_changes_the_code_has_a_graph_of_its_own(made):
    model = made[0]
    inputs = torch.ones(1, 4, 8, 8), torch.ones(1), torch.ones(1, 77, 8)
    first = stored_graphs._identity(model.unet, inputs)
    assert stored_graphs._identity(model.unet, inputs) == first
    larger = torch.ones(1, 4, 16, 8), *inputs[1:]
    assert stored_graphs._identity(model.unet, larger) != first
    make_seamless(model.unet, "x")
    seamless = stored_graphs._identity(model.unet, inputs)
    make_seamless(model.unet, "")
    assert seamless != first
