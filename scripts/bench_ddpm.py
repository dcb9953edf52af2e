"""The speed of training the paper's network: this project's loop beside the original's recipe.

The recipe is that of TeaPearce/Conditional_Diffusion_MNIST: tensors in PyTorch's default layout, Adam,
the loss read after every step. Network, batch and pictures are the same for both; steps of the two are
timed in turn, and medians compared, so that a busy machine slows both. `--dtype bfloat16` adds ours in
that; `--preset cifar10` takes that data set's own network, `better`, in place of the paper's.

    python scripts/bench_ddpm.py [--features 64] [--batch 256] [--steps 10] [--threads N]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sd_scratch.checkpoints.pixel_model import build_denoiser
from sd_scratch.config import ContextUNetConfig, PixelModelConfig, PixelUNetConfig
from sd_scratch.diffusion.schedule import Schedule
from sd_scratch.training.loop import Run
from sd_scratch.training.pixels.datasets import find_preset
from sd_scratch.training.pixels.ddpm import DdpmTask
from sd_scratch.training.pixels.images import DataSet, LabelledImages
from sd_scratch.training.pixels.presets import PixelPreset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--preset", choices=("paper-64", "cifar10"), default="paper-64")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.preset == "cifar10":
        preset = find_preset("cifar10")
    else:
        preset = find_preset("mnist", "paper-64")
        network = replace(preset.model.network, features=args.features)
        preset = replace(preset, model=replace(preset.model, network=network))
    preset = replace(preset, train=replace(preset.train, batch=args.batch))
    data = noise_pictures(max(1000, args.batch), preset.model.network)
    with tempfile.TemporaryDirectory() as folder:
        steps = {"original": original(preset, data), "sd_scratch": ours(preset, data, Path(folder))}
        if args.dtype == "bfloat16":
            steps["bfloat16"] = ours(preset, data, Path(folder), torch.bfloat16)
        times = in_turn(steps, args.steps)
    for name, seconds in times.items():
        rate, ratio = args.batch / seconds, times["original"] / seconds
        print(f"{name:10} {seconds:.3f} s a step, {rate:.1f} pictures a second, {ratio:.2f} times")


def in_turn(steps: dict[str, Callable[[], None]], count: int) -> dict[str, float]:
    """Median seconds of each kind of step; the first of each is not counted."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(count + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(all_times[1:]) for name, all_times in times.items()}


def ours(
    preset: PixelPreset, data: LabelledImages, folder: Path, dtype: torch.dtype = torch.float32
) -> Callable[[], None]:
    task = DdpmTask(preset, DataSet(data, data), folder, dtype=dtype)
    run = Run(task, preset.train, folder)

    def step() -> None:
        run.take_step(used=0.0)

    return step


def original(preset: PixelPreset, data: LabelledImages) -> Callable[[], None]:
    config: PixelModelConfig = preset.model
    network = build_denoiser(config)
    optimizer = torch.optim.Adam(network.parameters(), lr=preset.train.lr)
    alpha_bar = Schedule(config.schedule).alpha_bar
    generator = torch.Generator().manual_seed(0)
    size, smooth = preset.train.batch, 0.0

    def draw() -> tuple[Tensor, Tensor]:
        rows = torch.randperm(len(data), generator=generator)[:size]
        return data.images[rows].float() / 255, data.labels[rows]

    def step() -> None:
        nonlocal smooth
        x, classes = draw()
        t = torch.randint(1, len(alpha_bar), (size,), generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        a = alpha_bar[t][:, None, None, None]
        hidden = torch.rand(size, generator=generator) < preset.p_no_class
        told = classes.masked_fill(hidden, config.network.num_classes)
        optimizer.zero_grad()
        loss = F.mse_loss(noise, network(a.sqrt() * x + (1 - a).sqrt() * noise, t.float(), told))
        loss.backward()  # type: ignore[no-untyped-call]
        smooth = 0.95 * smooth + 0.05 * loss.item()
        optimizer.step()

    return step


def noise_pictures(count: int, network: PixelUNetConfig | ContextUNetConfig) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    shape = (count, network.in_channels, network.sample_size, network.sample_size)
    images = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    return LabelledImages(images, torch.arange(count) % 10, tuple("0123456789"))


if __name__ == "__main__":
    main()
