"""The page about models on pixels: its program runs, its commands exist, its numbers are the code's."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sd_scratch.checkpoints.pixel_model import build_denoiser
from sd_scratch.cli import main
from sd_scratch.training.pixels.datasets import find_preset

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "ddpm.md").read_text(encoding="utf-8")


def blocks(language: str, mark: str) -> list[str]:
    return re.findall(rf"^```{language} {mark}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("sh", "check")).splitlines()
    return [shlex.split(line)[1:] for line in lines if line]


def test_the_program_runs(capsys):
    (program,) = blocks("python", "run")
    exec(compile(program, "docs/ddpm.md", "exec"), {})
    assert "tensor" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_commands_and_their_flags_exist(arguments, capsys):
    assert main([arguments[0], "--help"]) == 0
    text = capsys.readouterr().out
    known = set(re.findall(r"(?<![\w-])--?[\w-]+", text))
    assert {word for word in arguments if word.startswith("-")} <= known
    assert arguments[1] in text


def test_the_table_of_presets_is_right():
    rows = re.findall(
        r"^\| ([\w-]+) `([\w-]+)`.*?\| ([\d.]+) M \| ([\d.]+) G \| (\d+), (\S+?)[;| ]", PAGE, re.M
    )
    assert len(rows) == 6
    for data, variant, millions, operations, batch, rate in rows:
        preset = find_preset(data, variant)
        network = build_denoiser(preset.model).to("meta")
        count = sum(p.numel() for p in network.parameters())
        assert f"{count / 1e6:.3g}" == millions
        side = preset.model.network.sample_size
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            x = torch.zeros(1, preset.model.network.in_channels, side, side)
            network.eval()(x, torch.zeros(1), torch.zeros(1, dtype=torch.long))
        assert counter.get_total_flops() / 1e9 == pytest.approx(float(operations), rel=0.03)
        assert (preset.train.batch, preset.train.lr) == (int(batch), float(rate))
