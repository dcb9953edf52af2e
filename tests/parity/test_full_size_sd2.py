"""Stable Diffusion 2.1's text encoder and U-Net at their full size, on the same random weights as the reference.

Prints the largest differences (``scripts/test -s -k full_size``). Takes 6 GB of memory, and skips where they are
not there.
"""

import pytest
import torch

from sd_scratch.config import SD21
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet
from tests.lively import liven
from tests.parity.references import reference_text_encoder, reference_unet
from tests.parity.test_full_size import MEMORY, available_memory, report

pytestmark = [
    pytest.mark.usefixtures("full_size_turn"),
    pytest.mark.skipif(
        available_memory() < MEMORY, reason="not enough memory for a model of full size"
    ),
]


@torch.no_grad()
def test_text_context() -> None:
    theirs = liven(reference_text_encoder(SD21.text), 3)
    with torch.device("meta"):
        ours = TextEncoder(SD21.text)
    state = {key.removeprefix("text_model."): value for key, value in theirs.state_dict().items()}
    ours.load_state_dict(state, assign=True)
    ids = torch.randint(0, 49406, (1, 77), generator=torch.Generator().manual_seed(0))
    ids[0, 0], ids[0, 20], ids[0, 21:] = 49406, 49407, 0
    report("text context", ours.eval()(ids), theirs(ids).last_hidden_state, 1e-5)


@torch.no_grad()
def test_unet_v() -> None:
    theirs = liven(reference_unet(SD21.unet), 1)
    with torch.device("meta"):
        ours = UNet(SD21.unet)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    torch.manual_seed(0)
    x, context, t = torch.randn(1, 4, 24, 24), torch.randn(1, 77, 1024), torch.tensor([501.0])
    report("U-Net v", ours.eval()(x, t, context), theirs(x, t, context).sample, 1e-4)
