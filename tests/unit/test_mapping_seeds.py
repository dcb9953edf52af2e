import numpy as np
import pytest
import torch

from sd_scratch.mapping import Rendering
from sd_scratch.mapping.seeds import Moments, running
from tests.tiny import tiny_model


@pytest.fixture
def values():
    return torch.randn(11, 3, 4, generator=torch.Generator().manual_seed(1)) * 1e-3 + 1e3


def test_moments_are_numpys_however_the_values_are_grouped(values):
    for cuts in ([1] * 11, [4, 7], [1, 10], [11]):
        parts = [Moments.of(part) for part in values.split(cuts)]
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.merged(part)
        array = values.double().numpy()
        assert whole.count == 11
        assert np.allclose(whole.mean, array.mean(axis=0), rtol=1e-12)
        assert np.allclose(whole.variance, array.var(axis=0, ddof=1), rtol=1e-6)


def test_one_value_does_not_vary(values):
    assert not Moments.of(values[:1]).variance.any()


def test_running_mean_and_deviation(values):
    scores = values[:, 0, 0]
    means, deviations = running(scores)
    for n in range(1, len(scores) + 1):
        some = scores[:n].double().numpy()
        assert float(means[n - 1]) == pytest.approx(some.mean())
        assert float(deviations[n - 1]) == pytest.approx(some.std(ddof=1) if n > 1 else 0, rel=1e-6)
    assert running(scores[:0])[0].shape == (0,)


def test_a_seed_gives_the_picture_that_generate_makes():
    model = tiny_model()
    prompt, told = model.prompt("a red circle"), []
    settings = {"sampler": "ddim", "steps": 2}
    rendering = Rendering(model, model.noise(0, 32, 24), settings, on_step=told.append)
    pixels = rendering.pixels([prompt, prompt], [4, 5])
    (image,) = model.generate(prompt, model.noise(5, 32, 24), **settings).to_pil()
    close = np.abs(pixels[1].permute(1, 2, 0).numpy().astype(int) - np.asarray(image))
    assert close.max() <= 1
    assert told == [2, 2]
