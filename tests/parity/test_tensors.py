"""Every recorded tensor against what the module of the same name makes in diffusers and transformers.

The references are watched by forward hooks. What a name corresponds to is the table of
`sd_scratch.tensors.reference`.
"""

from collections.abc import Callable

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from sd_scratch.config import TINY
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet
from sd_scratch.tensors import Recorder, Taps
from sd_scratch.tensors.reference import place, same_form
from tests.lively import liven
from tests.parity.references import reference_text_encoder, reference_unet, reference_vae

TOLERANCE = 1e-5

# No module of the reference makes these alone; the unit tests tie them to tensors that are here.
WITHOUT_REFERENCE = {"scores", "result", "t", "context", "mean", "logvar", "token_ids", "pooled"}


class Watcher:
    """What goes into and comes out of every module of a reference."""

    def __init__(self, reference: nn.Module) -> None:
        self.seen: dict[str, Tensor] = {}
        for path, module in reference.named_modules():
            module.register_forward_hook(self._hook(path), with_kwargs=True)
            if hasattr(module, "get_attention_scores"):
                module.get_attention_scores = self._scores(path, module.get_attention_scores)

    def _hook(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            given = args[0] if args else kwargs.get("hidden_states", kwargs.get("input_ids"))
            made = output[0] if isinstance(output, tuple) else output
            self.seen[f"{path}<"] = given
            self.seen[f"{path}>"] = made
            # transformers' eager attention returns its probabilities second
            if isinstance(output, tuple) and len(output) > 1 and path.endswith("self_attn"):
                self.seen[f"{path}.probs"] = output[1]

        return hook

    def _scores(self, path: str, compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def scores(*args: object) -> Tensor:
            self.seen[f"{path}.probs"] = compute(*args)
            return self.seen[f"{path}.probs"]

        return scores


def compare(taps: Taps, run: Callable[[], object], watcher: Watcher) -> None:
    with Recorder(taps, "*") as trace:
        run()
    compared, modules = set(), [path[:-1] for path in watcher.seen]
    for name, info in taps.tensors().items():
        where = place(info, modules)
        if info.leaf == "probs":
            where = f"{info.path.partition('.')[2]}.probs"
        if where is None:
            assert info.leaf in WITHOUT_REFERENCE, f"{name} has no place in the reference"
            continue
        ours = trace[name].tensor
        theirs = watcher.seen[where]
        form = theirs.reshape(ours.shape) if info.leaf == "probs" else same_form(theirs, info)
        theirs = form.expand_as(ours)
        assert ours.shape == theirs.shape, name
        assert ours.std() > 1e-3, f"{name} shows nothing"
        assert (ours - theirs).abs().max() <= TOLERANCE * max(1.0, theirs.abs().max()), name
        compared.add(name)
    assert len(compared) > 0.8 * len(taps.tensors())


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (9, 14)])
def test_unet(size):
    ours, theirs = liven(UNet(TINY.unet)), reference_unet(TINY.unet).eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    theirs.set_attn_processor(AttnProcessor())
    inputs = torch.randn(2, 4, *size), torch.tensor([981.0, 3.0]), torch.randn(2, 77, 32)
    watcher = Watcher(theirs)
    theirs(*inputs)
    compare(Taps.of("unet", ours, *inputs), lambda: ours(*inputs), watcher)


@torch.no_grad()
def test_autoencoder():
    ours, theirs = liven(Autoencoder(TINY.vae)), reference_vae(TINY.vae).eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    theirs.set_attn_processor(AttnProcessor())
    image, z = torch.randn(2, 3, 64, 40), torch.randn(2, 4, 9, 5)
    watcher = Watcher(theirs)
    posterior = theirs.encode(image).latent_dist
    theirs.decode(z)

    def run(vae: Autoencoder, image: Tensor, z: Tensor) -> None:
        vae.encode(image)
        vae.decode(z)

    taps = Taps({"vae": ours}, lambda roots, hw: run(roots["vae"], image.to("meta"), z.to("meta")))
    compare(taps, lambda: run(ours, image, z), watcher)
    with Recorder(taps, "vae.mean", "vae.logvar") as trace:
        ours.encode(image)
    assert (trace["vae.mean"].tensor - posterior.mean).abs().max() <= TOLERANCE
    assert (trace["vae.logvar"].tensor - posterior.logvar).abs().max() <= TOLERANCE


@torch.no_grad()
def test_text_encoder():
    ours, theirs = liven(TextEncoder(TINY.text)), reference_text_encoder(TINY.text).eval()
    theirs.load_state_dict(ours.state_dict())
    theirs.set_attn_implementation("eager")
    ids = torch.randint(0, 40_000, (2, 77))
    ids[:, 60:] = TINY.text.vocab_size - 1
    watcher = Watcher(theirs)
    expected = theirs(ids)
    taps = Taps.of("text", ours, ids)
    compare(taps, lambda: ours(ids), watcher)
    with Recorder(taps, "text.pooled") as trace:
        ours(ids)
    assert (trace["text.pooled"].tensor - expected.pooler_output).abs().max() <= TOLERANCE
