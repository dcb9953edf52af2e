"""FreeU as two edits of named tensors, against diffusers' own on the same random weights."""

import pytest
import torch

import sd_scratch as sd
from sd_scratch.errors import UsageError
from sd_scratch.tensors import At
from sd_scratch.tensors.edits import edit_from_plain
from tests.parity.references import reference_unet
from tests.tiny import tiny_model


@torch.no_grad()
@pytest.mark.parametrize("side", [(16, 16), (12, 20)])
def test_the_prediction_is_that_of_diffusers(side: tuple[int, int]) -> None:
    model = tiny_model()
    theirs = reference_unet(model.config.unet)
    theirs.load_state_dict(model.unet.state_dict(), assign=True)
    theirs.eval().enable_freeu(b1=1.5, s1=0.9, b2=1.6, s2=0.2)
    prompt = model.prompt("a cat")
    latent = torch.randn(1, 4, *side, generator=torch.Generator().manual_seed(0))
    noise = model.noise(3).with_latent(latent)
    way = {"guidance": 1.0, "sampler": "ddim", "steps": 4}
    plain = next(model.steps(prompt, noise, **way))
    first, second = (sd.edits.freeu(*scales, width=64) for scales in ((1.5, 0.9), (1.6, 0.2)))
    assert edit_from_plain(first.to_plain({}), {}).to_plain({}) == first.to_plain({})
    with (
        model.edit("unet.up_blocks.0.concat.*", first),
        model.edit("unet.up_blocks.1.concat.*", second),
    ):
        step = next(model.steps(prompt, noise, **way))
    expected = theirs(step.x_t, step.t, prompt.context).sample
    assert not torch.allclose(plain.eps, expected, atol=1e-2)
    assert torch.allclose(step.eps, expected, atol=1e-5)


def test_the_second_version_strengthens_where_the_mean_is_large() -> None:
    """The authors' formula (free_lunch_utils.py of their repository), written out for single numbers."""
    model = tiny_model()
    heard = []
    edit = sd.edits.freeu(1.5, 1.0, width=64, version=2)
    assert edit_from_plain(edit.to_plain({}), {}).to_plain({}) == edit.to_plain({})

    def listen(x: torch.Tensor, at: At) -> torch.Tensor | None:
        heard.append((x, edit(x, at)))
        return None

    with model.edit("unet.up_blocks.0.concat.0", listen):
        model.generate("a cat", model.noise(1), steps=1, guidance=1.0)
    (before, after), *_ = heard
    mean = before[0, :64].mean(0)
    share = (mean - mean.min()) / (mean.max() - mean.min())
    for channel in (0, 31):
        expected = before[0, channel] * (share * 0.5 + 1.0)
        assert torch.allclose(after[0, channel], expected, atol=1e-5)
    assert torch.equal(after[:, 32:64], before[:, 32:64])
    assert torch.allclose(after[:, 64:], before[:, 64:], atol=1e-5)
    with pytest.raises(UsageError, match="version 3 - say 1 or 2"):
        sd.edits.freeu(1.5, 0.9, version=3)


def test_a_stored_edit_of_before_there_were_versions_is_the_first() -> None:
    plain = sd.edits.freeu(1.5, 0.9).to_plain({})
    del plain["version"]
    assert edit_from_plain(plain, {}).to_plain({})["version"] == 1


def test_a_width_that_is_none_is_said() -> None:
    model = tiny_model()
    with (
        model.edit("unet.up_blocks.0.concat.0", sd.edits.freeu(1.5, 0.9)),
        pytest.raises(UsageError, match="has 128 channels, and not 1280 from below"),
    ):
        model.generate("a cat", model.noise(1), steps=1)
