"""What many runs in one process do to each other and to memory, on the smallest model there is.

    scripts/stress threads [--runs N]
    scripts/stress pictures [--count N] [--latents] [--every N]

`threads`: three threads generate, one edits, and a second model works on the same networks; every latent
is compared, bit for bit, with what it is when nothing else runs. `pictures`: pictures in one process,
written as PNG, with their latents too; what the process holds is shown, and its growth for each 1,000 once it
is warm. The exit status is 1 for a latent that was another, and for a megabyte of growth for 1,000 pictures.
"""

import argparse
import gc
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

import sd_scratch as sd
from sd_scratch.checkpoints.load import Components
from sd_scratch.config import TINY
from sd_scratch.dialects.stored_recipe import encode_picture
from sd_scratch.files import write_file
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet
from sd_scratch.pipeline.recipe import Recipe
from sd_scratch.text.tokenizer import Tokenizer

SETTINGS: dict[str, Any] = {"steps": 2, "sampler": "ddim"}
SIDE = 32
STATUS = Path("/proc/self/statm")
LIMIT = 1.0  # megabytes for 1,000 pictures


@dataclass
class Count:
    """Runs that were made, and those that came out as others."""

    runs: int = 0
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, right: bool) -> None:
        with self.lock:
            self.runs += 1
            if not right:
                self.wrong.append(name)


def tiny() -> sd.StableDiffusion:
    """A model with the weights that its networks start from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        networks = {
            "text": TextEncoder(TINY.text).eval().requires_grad_(False),
            "vae": Autoencoder(TINY.vae).eval().requires_grad_(False),
            "unet": UNet(TINY.unet).eval().requires_grad_(False),
        }
    return sd.StableDiffusion(Components.of(TINY, networks, Tokenizer.clip(77), source="tiny"))


def latent(model: sd.StableDiffusion, seed: int) -> Tensor:
    noise = model.noise(seed, SIDE, SIDE)
    return model.generate("a red circle", noise, **SETTINGS).latent


def halved(x: Tensor, at: object) -> Tensor:
    return x * 0.5


def doubled(x: Tensor, at: object) -> Tensor:
    return x * 2.0


def threads(runs: int) -> Count:
    """Four threads on two models that share their networks, until so many runs are done."""
    model = tiny()
    other = sd.StableDiffusion(model.components)
    plain = {seed: latent(model, seed) for seed in range(4)}
    with model.edit("unet.conv_in", halved):
        edited = latent(model, 0)
    with other.edit("unet.h", doubled):
        edited_other = latent(other, 0)
    count, start = Count(), threading.Barrier(4)

    def generate(seed: int) -> None:
        on = (model, other)[seed % 2]
        count.add(f"seed {seed}", torch.equal(latent(on, seed), plain[seed]))

    def edit() -> None:
        with model.edit("unet.conv_in", halved), model.record("unet.*.attn2.probs"):
            count.add("edited", torch.equal(latent(model, 0), edited))
        with other.edit("unet.h", doubled):
            count.add("edited other", torch.equal(latent(other, 0), edited_other))
        steps = model.steps("a red circle", model.noise(2, SIDE, SIDE), **SETTINGS)
        next(steps)  # and given up

    def repeat(act: Callable[[], None]) -> None:
        start.wait()
        while count.runs < runs:
            try:
                act()
            except Exception as error:
                count.add(f"{type(error).__name__}: {error}", right=False)

    acts: list[Callable[[], None]] = [lambda s=seed: generate(s) for seed in (1, 2, 3)]  # type: ignore[misc]
    workers = [threading.Thread(target=repeat, args=(act,)) for act in (*acts, edit)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return count


def held() -> float:
    """Megabytes that the process holds in memory."""
    gc.collect()
    return int(STATUS.read_text().split()[1]) * 4096 / 1e6


def pictures(count: int, every: int, latents: bool) -> float:
    """Growth in megabytes for 1,000 pictures, over the second half of them."""
    model, half, began = tiny(), 0.0, time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            noise = model.noise(i, SIDE, SIDE)
            made = model.generate("a red circle", noise, steps=1, sampler="ddim")
            recipe = Recipe(prompt="a red circle", seed=i, steps=1, sampler="ddim")
            write_file(
                Path(folder) / "a.png", encode_picture(made.to_pil()[0], recipe), overwrite=True
            )
            if latents:
                data = save({"latents": made.latent})
                write_file(Path(folder) / "a.safetensors", data, overwrite=True)
            if i + 1 == count // 2:
                half = held()
            if (i + 1) % every == 0:
                seconds = time.process_time() - began
                print(f"{i + 1:,} pictures: {held():.1f} MB, {seconds:.0f} s", flush=True)
        return (held() - half) / (count - count // 2) * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("threads", "pictures"))
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--latents", action="store_true", help="write each picture's latent, too")
    args = parser.parse_args()
    if args.what == "threads":
        count = threads(args.runs)
        print(f"{count.runs:,} runs, {len(count.wrong)} wrong", *count.wrong[:5], sep="\n")
        return int(bool(count.wrong))
    growth = pictures(args.count, args.every, args.latents)
    print(f"{growth:+.2f} MB for 1,000 pictures")
    return int(growth >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
