"""Facts about the networks on pixels."""

import pytest
import torch

from sd_scratch.config import ClassifierConfig, ContextUNetConfig, PixelUNetConfig
from sd_scratch.networks.classifier import Classifier
from sd_scratch.networks.context_unet import ContextUNet, context_vector
from sd_scratch.networks.pixel_unet import PixelUNet
from sd_scratch.training.pixels.presets import CIFAR_NET, FASHION_NET, LARGE_NET
from tests.digits import NETWORK, PAPER_NETWORK, lively


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def inputs(side: int = 8, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, channels, side, side, generator=generator)
    return x, torch.tensor([1.0, 200.0, 400.0]), torch.tensor([0, 7, 10])


def test_sizes():
    with torch.device("meta"):
        assert parameters(ContextUNet(ContextUNetConfig())) == 6_585_601
        assert parameters(ContextUNet(ContextUNetConfig(features=64))) == 1_650_305
        assert parameters(PixelUNet(PixelUNetConfig())) == 1_609_249
        assert parameters(PixelUNet(FASHION_NET)) == 1_905_601
        assert parameters(PixelUNet(CIFAR_NET)) == 2_857_219
        assert parameters(PixelUNet(LARGE_NET)) == 16_766_531


@pytest.mark.parametrize("side", [28, 32])
def test_the_context_unet_is_built_for_one_size(side):
    network = lively(ContextUNet(ContextUNetConfig(sample_size=side, features=8)))
    assert network(*inputs(side)).shape == (3, 1, side, side)


@pytest.mark.parametrize("side", [28, 32, 15])
def test_the_pixel_unet_takes_any_size(side):
    assert lively(PixelUNet(NETWORK))(*inputs(side)).shape == (3, 1, side, side)


def test_the_context_is_minus_the_one_hot_vector_and_zero_for_no_class():
    vector = context_vector(torch.tensor([2, 4]), 4)
    assert vector.tolist() == [[0, 0, -1, 0], [0, 0, 0, 0]]


def test_the_context_unet_does_not_know_the_time_on_its_way_down():
    network = lively(ContextUNet(PAPER_NETWORK))
    x, t, classes = inputs()
    seen = []
    network.to_vec.register_forward_hook(lambda m, i, out: seen.append(out))
    first, second = network(x, t, classes), network(x, t + 50, classes)
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(first, second)


def test_the_middle_of_the_context_unet_forgets_the_layout():
    network = lively(ContextUNet(PAPER_NETWORK))
    down2 = torch.randn(1, 16, 2, 2)
    assert torch.allclose(network.to_vec(down2), network.to_vec(down2.flip(-1)), atol=1e-6)


@pytest.mark.parametrize(
    "network", [PixelUNet(NETWORK), ContextUNet(PAPER_NETWORK)], ids=["pixel", "context"]
)
def test_time_and_class_matter_and_inputs_stay(network):
    network = lively(network)
    x, t, classes = inputs()
    copies = [tensor.clone() for tensor in (x, t, classes)]
    eps = network(x, t, classes)
    assert not torch.allclose(eps, network(x, t.flip(0), classes))
    assert not torch.allclose(eps, network(x, t, torch.tensor([10, 10, 10])))
    for tensor, copy in zip((x, t, classes), copies, strict=True):
        assert torch.equal(tensor, copy)


def test_a_fresh_pixel_unet_predicts_nothing():
    assert PixelUNet(NETWORK)(*inputs()).eq(0).all()


def test_dropout_acts_in_training_alone():
    network = lively(PixelUNet(PixelUNetConfig(**{**vars(NETWORK), "dropout": 0.5})))
    assert torch.equal(network(*inputs()), network(*inputs()))
    network.train()
    with torch.random.fork_rng():
        assert not torch.equal(network(*inputs()), network(*inputs()))


def test_the_classifier_scores_its_features():
    classifier = lively(Classifier(ClassifierConfig()))
    x = torch.randn(2, 1, 28, 28)
    assert classifier.features(x).shape == (2, 64)
    assert torch.allclose(classifier(x), classifier.head(classifier.features(x)))
