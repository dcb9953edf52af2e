"""Runs that do not see each other: two models on one set of networks, threads on one model, and runs that are
given up."""

import threading

import pytest
import torch

import sd_scratch as sd
from sd_scratch.errors import UsageError
from tests.tiny import tiny_model

NAME = "unet.conv_in"
SETTINGS = {"steps": 3, "sampler": "ddim"}


def halved(x, at):
    return x * 0.5


def enlarged(x, at):
    return x * 1.1


def latent(model, seed):
    return model.generate(model.prompt("a red circle"), model.noise(seed), **SETTINGS).latent


@pytest.fixture
def pair():
    model = tiny_model()
    return model, sd.StableDiffusion(model.components)


def test_an_edit_is_one_models_own(pair):
    model, other = pair
    plain = latent(other, 1)
    with other.edit(NAME, enlarged):
        enlarged_alone = latent(other, 1)
    with model.edit(NAME, halved):
        assert torch.equal(latent(other, 1), plain)
        with other.edit(NAME, enlarged):
            assert torch.equal(latent(other, 1), enlarged_alone)
        assert not torch.equal(latent(model, 1), plain)
    assert torch.equal(latent(model, 1), plain)
    assert not any("probe" in vars(module) for module in model.unet.modules())


def test_a_recording_is_one_models_own(pair):
    model, other = pair
    with model.record(NAME) as alone:
        latent(model, 1)
    with model.record(NAME) as trace, other.record(NAME) as second:
        for step in model.steps(model.prompt("a red circle"), model.noise(1), **SETTINGS):
            if step.index == 0:
                latent(other, 2)
    assert torch.equal(trace[NAME].tensor, alone[NAME].tensor)
    assert second[NAME].tensor.shape == alone[NAME].tensor.shape
    assert not torch.equal(second[NAME].tensor, alone[NAME].tensor)


@pytest.fixture
def compiled(pair):
    """Compiled as far as anybody can tell, and run as it is."""
    for model in pair:
        model.unet.compile(backend="eager")
    with torch.compiler.set_stance("force_eager"):
        yield pair


REFUSED = (
    r"^this network is compiled, and another thread or model .* - load the model once for each,"
)


def test_compiled_networks_are_heard_by_their_own_model_or_not_called(compiled):
    model, other = compiled
    plain = latent(model, 1)
    with model.edit(NAME, halved):
        assert not torch.equal(latent(model, 1), plain)
        with pytest.raises(UsageError, match=REFUSED):
            latent(other, 1)
        with other.record(NAME), pytest.raises(UsageError, match=REFUSED):
            latent(model, 1)
    assert torch.equal(latent(other, 1), plain)
    assert not any("probe" in vars(module) for module in model.unet.modules())


def test_compiled_networks_are_heard_by_their_own_thread_or_not_called(compiled):
    model, _ = compiled
    plain = latent(model, 1)
    entered, done, found = threading.Event(), threading.Event(), []

    def edit():
        with model.edit(NAME, halved):
            entered.set()
            assert done.wait(60)

    worker = threading.Thread(target=edit)

    def begin_elsewhere(x, at):
        if not worker.ident:
            worker.start()
            found.append(entered.wait(0.2))
        return x

    with model.edit("unet.h", begin_elsewhere), pytest.raises(UsageError, match=REFUSED):
        latent(model, 1)
    assert found == [False]  # it waited until the call was over
    assert entered.wait(60)
    done.set()
    worker.join()
    assert torch.equal(latent(model, 1), plain)
