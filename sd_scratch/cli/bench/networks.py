"""The networks' times, ours and theirs in turn, so that a busy machine slows both."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from sd_scratch.cli.bench.rows import Row, row
from sd_scratch.cli.bench.subjects import Theirs
from sd_scratch.cli.load import compile_unet
from sd_scratch.pipeline.stable_diffusion import StableDiffusion

Call = Callable[[], Tensor]


@torch.no_grad()
def network_rows(
    ours: StableDiffusion, theirs: Theirs | None, size: int, repeats: int
) -> list[Row]:
    """A guided U-Net step (batch 2), the encoding of two prompts, and the decoding of a picture."""
    x_t, t, context, token_ids = inputs(ours, size)
    z = x_t[:1]
    mine: dict[str, Call] = {
        "U-Net, guided step": lambda: ours.unet.forward(x_t, t, context),
        "text encoding": lambda: ours.text(token_ids),
        "VAE decoding": lambda: ours.vae.decode(z),
    }
    other: dict[str, Call] = {}
    if theirs is not None:
        other = {
            "U-Net, guided step": lambda: theirs.unet(x_t, t, context).sample,
            "text encoding": lambda: theirs.text(token_ids).last_hidden_state,
            "VAE decoding": lambda: theirs.vae.decode(z).sample,
        }
    return [alternate(what, call, other.get(what), repeats) for what, call in mine.items()]


@torch.no_grad()
def compiled_row(ours: StableDiffusion, theirs: Theirs | None, size: int, repeats: int) -> Row:
    """The same U-Net step compiled, what its preparation costs, and when that is earned back."""
    x_t, t, context, _ = inputs(ours, size)
    unet = ours.unet
    eager = median(seconds(lambda: unet.forward(x_t, t, context)) for _ in range(repeats))
    compile_unet(unet)
    preparation = seconds(lambda: unet(x_t, t, context))
    their_step = None if theirs is None else (lambda: theirs.unet(x_t, t, context).sample)
    found = alternate("U-Net, compiled", lambda: unet(x_t, t, context), their_step, repeats)
    gain = eager - found.ours
    pays = f", pays after {preparation / gain:.0f} steps" if gain > 0 else ", never pays"
    return Row(**{**vars(found), "note": f"prepared in {preparation:.0f} s{pays}; {found.note}"})


def inputs(model: StableDiffusion, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch of two for the U-Net (x_t, t, context), and two prompts for the text encoder."""
    generator = torch.Generator().manual_seed(0)
    cells = size // model.config.vae.downscale
    shape = (2, model.config.unet.in_channels, cells, cells)
    x_t = torch.randn(shape, generator=generator).to(model.device, model.dtype)
    t = torch.full((2,), 500.0, device=model.device)
    texts = ("", "a photograph of an astronaut riding a horse")
    ids = [model.tokenizer.encode(text).ids for text in texts]
    token_ids = torch.tensor(ids, device=model.device)
    return x_t, t, model.text(token_ids), token_ids


def alternate(what: str, ours: Call, theirs: Call | None, repeats: int) -> Row:
    """Warm up, then time both in turn; the note says how far apart their results are."""
    note = ""
    result = ours()
    if theirs is not None:
        note = f"largest difference {(result - theirs()).abs().max().item():.1e}"
    mine, other = [], []
    for _ in range(repeats):
        mine.append(seconds(ours))
        if theirs is not None:
            other.append(seconds(theirs))
    return row(what, "s", mine, other, note)


def seconds(call: Call) -> float:
    """How long a call takes, on whatever device it computes."""
    start = time.perf_counter()
    result = call()
    if result.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
