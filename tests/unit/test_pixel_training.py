"""Training on pixels: the objective, exact resume, what is refused, and several processes."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sd_scratch.checkpoints.pixel_model import load_pixel_model
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.pipeline.pixel_diffusion import PixelDiffusion
from sd_scratch.training import state as state_module
from sd_scratch.training.journal import read_journal
from sd_scratch.training.loop import Run
from sd_scratch.training.pixels import ddpm
from sd_scratch.training.pixels.datasets import DATA_SETS, find_preset
from sd_scratch.training.pixels.ddpm import DdpmTask
from sd_scratch.training.pixels.presets import (
    PixelPreset,
    for_classes,
    with_timesteps,
)
from sd_scratch.training.pixels.train import check_fits, export_ddpm, train_ddpm
from sd_scratch.training.settings import Budget
from sd_scratch.training.state import load_state
from sd_scratch.training.task import Shuffle
from sd_scratch.training.team import Team
from tests.digits import BETTER, PAPER_TINY, digit_data, digits

ROOT = Path(__file__).resolve().parents[2]
VARIED = replace(
    BETTER,
    flip=True,
    model=replace(BETTER.model, network=replace(BETTER.model.network, dropout=0.2)),
)


@pytest.fixture(autouse=True)
def short_looks(monkeypatch):
    monkeypatch.setattr(ddpm, "LOOK_STEPS", 2)


def train_for(preset: PixelPreset, out: Path, steps: int, **settings: Any) -> dict[str, Any]:
    outcome = train_ddpm(preset, digit_data(), out, Budget(steps=steps), **settings)
    return {"model": outcome.model.state_dict(), "ema": outcome.ema.state_dict()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[part][key], b[part][key]) for part in a for key in a[part])


# The objective ------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [BETTER, PAPER_TINY], ids=["v", "eps"])
def test_the_loss_is_the_error_of_what_the_network_is_asked_for(tmp_path, preset):
    task = DdpmTask(preset, digit_data(), tmp_path)
    x0, eps = torch.randn(5, 1, 8, 8), torch.randn(5, 1, 8, 8)
    t, classes = torch.tensor([1, 40, 200, 300, 399]), torch.arange(5)
    seen: dict[str, Any] = {}

    class Network(torch.nn.Module):
        def forward(self, x_t, t, classes):
            seen.update(x_t=x_t, t=t, classes=classes)
            return torch.zeros_like(x_t)

    loss = task.error(Network(), x0, classes, t, eps)
    alpha_bar = (1 - task.schedule.betas.double()).cumprod(0)[t].view(-1, 1, 1, 1)
    a, s = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
    assert torch.allclose(seen["x_t"], a * x0 + s * eps, atol=1e-4)
    assert torch.equal(seen["t"], t.float()) and torch.equal(seen["classes"], classes)
    goal = a * eps - s * x0 if preset is BETTER else eps
    assert float(loss) == pytest.approx(float(goal.square().mean()), rel=1e-4)


def test_one_class_in_ten_is_hidden(tmp_path):
    task = DdpmTask(BETTER, digit_data(), tmp_path)
    generator = torch.Generator().manual_seed(0)
    classes = torch.cat([task.batch(step, generator)[1] for step in range(200)])
    assert 0.08 < float((classes == 10).float().mean()) < 0.12
    assert set(classes.tolist()) == set(range(11))


def test_the_papers_schedule_is_the_original_one():
    """beta_t = (b2 - b1) t / T + b1 for t in 0..T with T = 400, of which 1..T are used."""
    preset = find_preset("mnist", "paper")
    task_schedule = ddpm.Schedule(preset.model.schedule)
    t = torch.arange(401, dtype=torch.float64)
    beta = (0.02 - 1e-4) * t / 400 + 1e-4
    alpha_bar = (1 - beta).log().cumsum(0).exp()
    assert (task_schedule.alpha_bar.double() - alpha_bar).abs().max() < 1e-6
    assert task_schedule.ladder(400).timesteps == tuple(range(400, 0, -1))
    assert float(alpha_bar[400].sqrt()) == pytest.approx(0.1315, abs=5e-4)
    assert preset.model.network.last_timestep == 400 and preset.model.first_timestep == 1


def test_bfloat16_is_nearly_float32_and_leaves_the_weights_alone(tmp_path):
    def first_steps(name: str, dtype: torch.dtype | None) -> tuple[list[float], Any]:
        outcome = train_ddpm(BETTER, digit_data(), tmp_path / name, Budget(steps=4), dtype=dtype)
        rows = read_journal(tmp_path / name / "ddpm")
        return [row["loss"] for row in rows if "loss" in row], outcome.model

    full, _ = first_steps("full", None)
    low, model = first_steps("low", torch.bfloat16)
    assert low != full  # which float32 would give again, bit for bit
    assert low == pytest.approx(full, rel=0.02)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_it_learns_and_leaves_a_model_that_makes_pictures(tmp_path):
    preset = replace(BETTER, train=replace(BETTER.train, ema_decay=0.8))
    train_for(preset, tmp_path, 120)
    rows = [row for row in read_journal(tmp_path / "ddpm") if "loss" in row]
    losses = [row["loss"] for row in rows]
    assert sum(losses[-10:]) / 10 < 0.6 * sum(losses[:5]) / 5
    assert list((tmp_path / "ddpm").glob("samples-*.png"))
    assert (tmp_path / "ddpm" / "reverse.gif").read_bytes()[:6] == b"GIF89a"
    card = (tmp_path / "model" / "README.md").read_text()
    assert "120 steps of 16 pictures" in card
    model = PixelDiffusion(load_pixel_model(tmp_path / "model"))
    made = model.generate(list(range(10)), list(range(10)), steps=10)
    data = digits(10).images.float() / 127.5 - 1
    distance = (made[:, None] - data[None]).square().mean(dim=(2, 3, 4))
    assert (distance.argmin(1) == torch.arange(10)).sum() >= 4  # one by chance


# Going on -----------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [VARIED, PAPER_TINY], ids=["better", "paper"])
def test_a_run_cut_and_resumed_equals_an_uncut_one_bit_for_bit(tmp_path, preset):
    whole = train_for(preset, tmp_path / "whole", 8)
    task = DdpmTask(preset, digit_data(), tmp_path / "cut" / "ddpm")
    run = Run(task, preset.train, tmp_path / "cut" / "ddpm")
    for step in range(3):
        run.take_step(step / 8)
    run.save()
    torch.rand(7)  # whatever else draws random numbers in the new process
    resumed = train_for(preset, tmp_path / "cut", 8, resume=True)
    assert same(whole, resumed)


def test_other_pictures_are_not_gone_on_with(tmp_path):
    train_for(BETTER, tmp_path, 1)
    data = digit_data()
    other = data.train.images.clone()
    other[3, 0, 0, 0] ^= 1
    others = replace(data, train=replace(data.train, images=other))
    with pytest.raises(UsageError, match=r"pictures was '160 \(\w+\)' and is now '160"):
        train_ddpm(BETTER, others, tmp_path, Budget(steps=2), resume=True)
    turned = replace(data, train=replace(data.train, labels=data.train.labels.flip(0)))
    with pytest.raises(UsageError, match="pictures was"):
        train_ddpm(BETTER, turned, tmp_path, Budget(steps=2), resume=True)
    train_for(BETTER, tmp_path, 2, resume=True)


def test_training_leaves_the_global_random_state_alone(tmp_path):
    before = torch.get_rng_state()
    train_for(VARIED, tmp_path, 2)
    assert torch.equal(before, torch.get_rng_state())


def test_another_configuration_is_not_resumed_and_the_difference_is_shown(tmp_path):
    train_for(BETTER, tmp_path, 1)
    other = replace(BETTER, p_no_class=0.2, train=replace(BETTER.train, lr=1.0))
    with pytest.raises(ScratchError, match=r"lr was 0.002 and is now 1.0; p_no_class was 0.1") as e:
        train_for(other, tmp_path, 2, resume=True)
    assert isinstance(e.value, UsageError)
    with pytest.raises(ScratchError, match="resume it"):
        train_for(BETTER, tmp_path, 2)


def test_numbers_that_are_none_stop_the_run_and_keep_the_last_good_state(tmp_path):
    train_for(BETTER, tmp_path, 2)
    good = load_state(tmp_path / "ddpm")
    data = digit_data()
    task = DdpmTask(BETTER, data, tmp_path / "ddpm")
    run = Run(task, BETTER.train, tmp_path / "ddpm")
    run.restore(good)
    before = {key: value.clone() for key, value in task.model.state_dict().items()}
    task.schedule.alpha_bar[:] = float("nan")
    with pytest.raises(ScratchError, match="not finite at step 2"):
        run.take_step(0.0)
    assert all(torch.equal(value, before[key]) for key, value in task.model.state_dict().items())
    assert load_state(tmp_path / "ddpm").step == 2


def test_a_full_disk_keeps_the_last_good_state(tmp_path, monkeypatch):
    train_for(BETTER, tmp_path, 2)

    def full(path: Path, *args: Any, **options: Any) -> None:
        raise ScratchError(f"cannot write {path} - the disk is full: make room and run again")

    monkeypatch.setattr(state_module, "write_file", full)
    with pytest.raises(ScratchError, match="the disk is full"):
        train_for(BETTER, tmp_path, 3, resume=True)
    monkeypatch.undo()
    assert load_state(tmp_path / "ddpm").step == 2


# The presets --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "variant"), [(d, v) for d, row in DATA_SETS.items() for v in row.presets]
)
def test_every_preset_fits_its_data(data, variant):
    preset = find_preset(data, variant)
    network = preset.model.network
    pictures = digits(10, network.sample_size, network.in_channels)
    check_fits(preset, ddpm.DataSet(pictures, pictures))
    judge = DATA_SETS[data].judge.model
    assert (judge.in_channels, judge.sample_size) == (network.in_channels, network.sample_size)
    assert preset.data == data


def test_the_number_of_timesteps_is_a_setting(tmp_path):
    """As the paper had it for photographs: 1,000, all of them sampled."""
    preset = with_timesteps(find_preset("cifar10", "paper-64"), 1000)
    model = preset.model
    schedule = ddpm.Schedule(model.schedule)
    assert schedule.ladder(model.steps).timesteps == tuple(range(1000, 0, -1))
    assert model.network.last_timestep == 1000
    beta = (0.02 - 1e-4) * torch.arange(1001, dtype=torch.float64) / 1000 + 1e-4
    assert (schedule.betas.double() - beta).abs().max() < 1e-8
    assert with_timesteps(preset, 400).model == find_preset("cifar10", "paper-64").model
    better = with_timesteps(find_preset("mnist"), 20).model
    assert (better.schedule.num_train_timesteps, better.steps) == (20, 20)

    train_for(with_timesteps(PAPER_TINY, 6), tmp_path, 1)
    written = load_pixel_model(tmp_path / "model").config
    assert written.network.last_timestep == 6 and len(ddpm.Schedule(written.schedule)) == 7
    with pytest.raises(UsageError, match="is now"):
        train_for(PAPER_TINY, tmp_path, 2, resume=True)


def test_an_epoch_is_all_whole_batches(tmp_path):
    """160 pictures in batches of 16; of 60,000 in batches of 256 the last 96 wait for the next epoch."""
    outcome = train_ddpm(BETTER, digit_data(), tmp_path, Budget(epochs=1))
    assert outcome.step == 10
    assert Shuffle(60_000, 256, 0).per_epoch == 234


def test_a_preset_takes_the_classes_of_the_data():
    preset = for_classes(find_preset("pictures"), ("cat", "dog", "elk"))
    assert preset.model.network.num_classes == 3
    assert preset.model.class_names == ("cat", "dog", "elk")


def test_unknown_presets_and_other_data_are_refused(tmp_path):
    with pytest.raises(ScratchError, match="there is better, paper, paper-64"):
        find_preset("mnist", "papr")
    with pytest.raises(ScratchError, match="another data set"):
        train_ddpm(BETTER, digit_data(16), tmp_path, Budget(steps=1))
    with pytest.raises(ScratchError, match="fewer than a batch of 1000"):
        large = replace(BETTER, train=replace(BETTER.train, batch=1000))
        train_ddpm(large, digit_data(), tmp_path, Budget(steps=1))


def test_exporting_needs_a_state_of_that_network(tmp_path):
    with pytest.raises(ScratchError, match="no state"):
        export_ddpm(BETTER, tmp_path, tmp_path / "x")
    train_for(BETTER, tmp_path, 1)
    with pytest.raises(ScratchError, match="another network"):
        export_ddpm(PAPER_TINY, tmp_path, tmp_path / "x")


def test_a_card_keeps_what_people_wrote(tmp_path):
    train_for(BETTER, tmp_path, 1)
    card = tmp_path / "model" / "README.md"
    measured = b"| accuracy | 99 % |\xe9\n"  # by an editor of another encoding
    card.write_bytes(card.read_bytes().replace(b"Not measured yet.\n", measured))
    train_for(BETTER, tmp_path, 2, resume=True)
    assert measured in card.read_bytes() and b"2 steps of" in card.read_bytes()


# Several processes --------------------------------------------------------------------------


def test_a_batch_is_shared_without_rest():
    assert Team(1, 2).share(torch.arange(6)).tolist() == [1, 3, 5]
    with pytest.raises(ScratchError, match="cannot be shared by 3"):
        Team(0, 3).check_batch(16)


def test_two_processes_follow_one_with_the_whole_batch(tmp_path):
    """As torchrun starts them: gradients are averaged over gloo, and the first alone writes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in range(2):
        env = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "tests.team_worker", str(tmp_path / "two")]
        workers.append(subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.PIPE))
    alone = train_for(BETTER, tmp_path / "one", 12)
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors.decode()

    rows = [
        [row for row in read_journal(tmp_path / name / "ddpm") if "loss" in row]
        for name in ("one", "two")
    ]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for one, two in zip(*rows, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
    together = load_state(tmp_path / "two" / "ddpm")
    for key, value in alone["model"].items():
        assert torch.allclose(together.model[key], value, atol=1e-4)
