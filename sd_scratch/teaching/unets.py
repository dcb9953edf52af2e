"""Where a U-Net's parameters are, and how large what it computes is, level by level."""

import torch

from sd_scratch.config import SCENES, SD15, ModelConfig
from sd_scratch.mapping.charts import bar_chart
from sd_scratch.networks.unet import UNet
from sd_scratch.teaching.table import Table

MODELS: dict[str, ModelConfig] = {"scenes": SCENES, "sd15": SD15}
TOY = {"64, 128, 256": (64, 128, 256), "32, 64, 128, 256": (32, 64, 128, 256)}


def analyse() -> Table:
    """For each level of two real U-Nets: channels, side, parameters, and the bytes of one feature map in
    float32. Nothing is allocated."""
    rows: list[tuple[object, ...]] = []
    for name, config in MODELS.items():
        with torch.device("meta"):
            unet = UNet(config.unet)
        side = config.sample_size // config.vae.downscale
        levels = len(config.unet.block_out_channels)
        for i, block in enumerate(unet.down_blocks):
            rows.append(
                _row(name, f"down {i}", block, config.unet.block_out_channels[i], side >> i)
            )
        rows.append(
            _row(
                name,
                "middle",
                unet.mid_block,
                config.unet.block_out_channels[-1],
                side >> (levels - 1),
            )
        )
        for i, block in enumerate(unet.up_blocks):
            level = levels - 1 - i
            rows.append(
                _row(name, f"up {i}", block, config.unet.block_out_channels[level], side >> level)
            )
    large = [row for row in rows if row[0] == "sd15"]
    up = sum(int(str(row[4])) for row in large if str(row[1]).startswith("up"))
    total = sum(int(str(row[4])) for row in large)
    toys = ", ".join(f"{toy_parameters(widths):,} ({name})" for name, widths in TOY.items())
    millions = [int(str(row[4])) / 1e6 for row in large]
    return Table(
        ("model", "level", "channels", "side", "parameters", "bytes a map"),
        tuple(rows),
        (
            f"of SD 1.5's blocks the way up has {up / total:.0%} of the parameters: skips double its inputs",
            f"one convolution a level, as the tutorial counts, has {toys} parameters",
        ),
        bar_chart(millions, [f"{row[1]}, millions" for row in large], max(millions), width=520),
    )


def _row(
    model: str, level: str, block: torch.nn.Module, channels: int, side: int
) -> tuple[object, ...]:
    count = sum(parameter.numel() for parameter in block.parameters())
    return model, level, channels, side, count, 4 * channels * side**2


def toy_parameters(widths: tuple[int, ...]) -> int:
    """The tutorial's U-Net: a 3x3 convolution a level down and in the middle, and on the way up a 4x4 one that
    enlarges and a 3x3 one on twice the channels."""

    def convolution(inputs: int, outputs: int, kernel: int) -> int:
        return outputs * inputs * kernel**2 + outputs

    down = sum(convolution(a, b, 3) for a, b in zip((3, *widths), widths, strict=False))
    middle = convolution(widths[-1], widths[-1], 3)
    ends = (3, *widths[:-1])
    up = sum(
        convolution(w, e, 4) + convolution(2 * w, e, 3) for w, e in zip(widths, ends, strict=True)
    )
    return down + middle + up
