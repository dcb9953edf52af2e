"""The frame of training: exact resume, refusals, and what is left after an accident."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.stop import Stop
from sd_scratch.training import state as state_module
from sd_scratch.training.ema import Ema
from sd_scratch.training.journal import read_journal
from sd_scratch.training.lock import only_run
from sd_scratch.training.loop import Run, train
from sd_scratch.training.settings import Budget, TrainConfig
from sd_scratch.training.state import load_state
from sd_scratch.training.task import Task
from sd_scratch.training.team import Team

ROOT = Path(__file__).resolve().parents[2]

CONFIG = TrainConfig(batch=4, lr=1e-2, warmup_steps=3, log_steps=2, save_seconds=1e9)


class Line(Task):
    """Learns y = 2 x + 1 from noisy points."""

    def __init__(self, hidden: int = 8) -> None:
        torch.manual_seed(0)
        self.hidden = hidden
        self.model: nn.Module = nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def settings(self) -> dict[str, Any]:
        return {"hidden": self.hidden}

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x = torch.randn(4, 1, generator=generator) + 0.01 * step
        y = 2 * x + 1 + 0.1 * torch.randn(4, 1, generator=generator)
        error = self.model(x) - y
        return error.square().mean(), {"bias": float(error.mean().detach())}

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        return {"looked": 1.0}


def weights(module: nn.Module) -> list[Tensor]:
    return list(module.state_dict().values())


def stop_after(steps: int) -> tuple[Stop, Any]:
    stop = Stop()

    def on_step(step: int, used: float, figures: dict[str, float]) -> None:
        stop.asked = stop.asked or step >= steps

    return stop, on_step


def test_n_steps_and_n_more_are_2n_steps_bit_for_bit(tmp_path: Path) -> None:
    budget = Budget(steps=20)
    whole = train(Line(), CONFIG, budget, tmp_path / "whole")
    stop, on_step = stop_after(9)
    first = train(Line(), CONFIG, budget, tmp_path / "cut", stop=stop, on_step=on_step)
    assert first.interrupted and first.step == 9
    torch.manual_seed(123)  # whatever the new process' own random state is
    again = Line()
    nn.init.zeros_(again.model[0].weight)  # type: ignore[index, arg-type]
    second = train(again, CONFIG, budget, tmp_path / "cut", resume=True)
    assert not second.interrupted and second.step == 20
    for a, b in zip(weights(whole.model), weights(second.model), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(weights(whole.ema), weights(second.ema), strict=True):
        assert torch.equal(a, b)


def test_the_journal_has_every_row_once_after_a_crash(tmp_path: Path) -> None:
    budget = Budget(steps=12)
    stop, on_step = stop_after(4)
    train(Line(), CONFIG, budget, tmp_path, stop=stop, on_step=on_step)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, "loss": 0.5}) + "\n")  # after the last state
        file.write('{"step": 8, "lo')  # cut short
    train(Line(), CONFIG, budget, tmp_path, resume=True)
    steps = [row["step"] for row in read_journal(tmp_path) if "loss" in row]
    assert steps == [2, 4, 6, 8, 10, 12]
    assert read_journal(tmp_path)[-1] == {"step": 12, "looked": 1.0}


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train(Line(), CONFIG, Budget(steps=2), tmp_path)
    with pytest.raises(ScratchError, match=r"at step 2 .* resume it") as error:
        train(Line(), CONFIG, Budget(steps=2), tmp_path)
    assert isinstance(error.value, UsageError)


def test_another_configuration_is_refused_and_named(tmp_path: Path) -> None:
    train(Line(), CONFIG, Budget(steps=2), tmp_path)
    other = TrainConfig(batch=4, lr=5e-3, warmup_steps=3)
    with pytest.raises(ScratchError, match=r"hidden was 8 and is now 9; lr was 0.01 and is now"):
        train(Line(hidden=9), other, Budget(steps=4), tmp_path, resume=True)


def test_what_changes_nothing_that_is_learnt_may_change(tmp_path: Path) -> None:
    train(Line(), CONFIG, Budget(steps=2), tmp_path)
    other = TrainConfig(batch=4, lr=1e-2, warmup_steps=3, log_steps=1, save_seconds=5)
    assert train(Line(), other, Budget(steps=4), tmp_path, resume=True).step == 4


def test_an_average_follows_its_closed_form() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    ema = Ema(model, decay=0.5)
    expected = 0.0
    for step, value in enumerate([1.0, 2.0, -3.0, 4.0, 0.5, 7.0]):
        nn.init.constant_(model.weight, value)
        ema.update(model, step)
        d = min(0.5, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * value
        assert float(ema.model.weight) == pytest.approx(expected, rel=1e-6)  # type: ignore[arg-type]
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_the_rate_warms_up_stays_and_falls_in_the_last_fifth(tmp_path: Path) -> None:
    run = Run(Line(), CONFIG, tmp_path)
    rates = []
    for step in range(100):
        run.step = step
        rates.append(run.learning_rate(step / 100))
    assert rates[:3] == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2])
    assert set(rates[2:80]) == {1e-2}
    assert rates[90] == pytest.approx(0.5e-2)
    assert rates[99] == pytest.approx(0.05e-2)


def test_minutes_count_training_and_not_a_pause(tmp_path: Path) -> None:
    """Ten seconds a step by the clock, and one step during which the process was stopped for a day."""
    times = iter(
        [0.0, 10.0, 10.0, 86_410.0, *(86_410.0 + 10.0 * i for i in (0, 1, 1, 2, 2, 3, 3, 4))]
    )
    outcome = train(Line(), CONFIG, Budget(minutes=1.0), tmp_path, clock=lambda: next(times))
    assert outcome.step == 4 and outcome.seconds == pytest.approx(10 + 30 + 10 + 10)


def test_a_signal_ends_the_run_with_a_state(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def on_step(step: int, used: float, figures: dict[str, float]) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    outcome = train(Line(), CONFIG, Budget(steps=20), tmp_path, on_step=on_step)
    assert outcome.interrupted and outcome.step == 3
    state = load_state(tmp_path)
    assert state is not None and state.step == 3
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_states_are_kept(tmp_path: Path) -> None:
    eager = TrainConfig(batch=4, lr=1e-2, save_seconds=0)
    train(Line(), eager, Budget(steps=5), tmp_path)
    names = sorted(path.name for path in tmp_path.glob("*.pt"))
    assert names == ["state-000000004.pt", "state-000000005.pt"]
    assert not list(tmp_path.glob(".*.part"))


def test_a_damaged_newest_state_gives_way_to_the_one_before(tmp_path: Path) -> None:
    eager = TrainConfig(batch=4, lr=1e-2, save_seconds=0)
    train(Line(), eager, Budget(steps=5), tmp_path)
    newest = tmp_path / "state-000000005.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    state = load_state(tmp_path)
    assert state is not None and state.step == 4
    (tmp_path / "state-000000004.pt").write_bytes(b"")
    with pytest.raises(ScratchError, match=r"no state .* can be read"):
        load_state(tmp_path)


def test_a_full_disk_costs_no_state_and_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(Line(), CONFIG, Budget(steps=2), tmp_path)

    def full(path: Path, data: bytes, *, overwrite: bool = False) -> None:
        raise ScratchError(f"cannot write {path} - the disk is full: make room and run again")

    monkeypatch.setattr(state_module, "write_file", full)
    eager = TrainConfig(batch=4, lr=1e-2, warmup_steps=3, save_seconds=0)
    with pytest.raises(ScratchError, match="disk is full"):
        train(Line(), eager, Budget(steps=4), tmp_path, resume=True)
    state = load_state(tmp_path)
    assert state is not None and state.step == 2
    assert [row["step"] for row in read_journal(tmp_path) if "problem" in row] == [3, 4]


@pytest.mark.parametrize("place", [0, 30, 59, 60, 100, 2000, -3000, -1])
def test_one_changed_bit_in_the_newest_state_is_noticed(
    tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    """In the head, in the checksum, in the archive: the older state is taken, with a warning."""
    eager = replace(CONFIG, save_seconds=0)
    whole = train(Line(), eager, Budget(steps=8), tmp_path / "whole")
    stop, on_step = stop_after(5)
    train(Line(), eager, Budget(steps=8), tmp_path / "cut", stop=stop, on_step=on_step)
    newest = tmp_path / "cut" / "state-000000005.pt"
    data = bytearray(newest.read_bytes())
    data[place] ^= 4
    newest.write_bytes(data)
    again = train(Line(), eager, Budget(steps=8), tmp_path / "cut", resume=True)
    assert "state-000000005.pt - left aside, it is damaged" in caplog.text
    for a, b in zip(weights(whole.model), weights(again.model), strict=True):
        assert torch.equal(a, b)


def test_a_damaged_state_does_not_push_out_good_ones(tmp_path: Path) -> None:
    train(Line(), CONFIG, Budget(steps=2), tmp_path)
    (tmp_path / "state-000000900.pt").write_bytes(b"damaged")
    train(Line(), replace(CONFIG, save_seconds=0), Budget(steps=4), tmp_path, resume=True)
    names = sorted(path.name for path in tmp_path.glob("*.pt"))
    assert names == ["state-000000003.pt", "state-000000004.pt"]


def test_states_of_the_first_format_are_still_read(tmp_path: Path) -> None:
    train(Line(), CONFIG, Budget(steps=2), tmp_path)
    state = load_state(tmp_path)
    assert state is not None
    old = {key: value for key, value in vars(state).items() if key != "held"}
    torch.save({"format": 1, "extra": {}, **old}, tmp_path / "state-000000003.pt")
    again = load_state(tmp_path)
    assert again is not None and torch.equal(again.generator, state.generator)


def test_a_state_of_another_network_is_one_line(tmp_path: Path) -> None:
    train(Line(), CONFIG, Budget(steps=2), tmp_path)
    state = load_state(tmp_path)
    assert state is not None
    del state.model["0.weight"]
    state_module.save_state(tmp_path, state)
    with pytest.raises(ScratchError, match="does not fit this network"):
        train(Line(), CONFIG, Budget(steps=4), tmp_path, resume=True)


def test_a_hang_up_ends_the_run_with_a_state_unless_it_is_ignored(tmp_path: Path) -> None:
    def on_step(step: int, used: float, figures: dict[str, float]) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    try:
        outcome = train(Line(), CONFIG, Budget(steps=6), tmp_path / "a", on_step=on_step)
        assert outcome.interrupted and outcome.step == 3
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
        outcome = train(Line(), CONFIG, Budget(steps=6), tmp_path / "b", on_step=on_step)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not outcome.interrupted and outcome.step == 6


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / ".0123.part").write_bytes(b"of a process that was killed")
    with only_run(tmp_path):
        assert not list(tmp_path.glob(".*.part"))
        with pytest.raises(UsageError, match="another process trains into"):
            train(Line(), CONFIG, Budget(steps=2), tmp_path)
    assert train(Line(), CONFIG, Budget(steps=2), tmp_path).step == 2


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder, reason in (("file", "is a file, not a folder"), ("file/run", "a part of the path")):
        with pytest.raises(ScratchError, match=reason):
            train(Line(), CONFIG, Budget(steps=2), tmp_path / folder)


@pytest.mark.parametrize("line", [b"{}", b"[1]", b"\xff\xfe", b'{"step": "1"}', b"[" * 10**5])
def test_damaged_lines_of_a_journal_are_left_out(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n{"st')
    assert read_journal(tmp_path) == [{"step": 1}, {"step": 2}]
    assert "damaged lines are left out: 1" in caplog.text


def test_a_run_that_is_killed_at_random_moments_equals_one_that_is_not(tmp_path: Path) -> None:
    """`scripts/kill_training.py` does the same as often as one likes."""
    script = ROOT / "scripts" / "kill_training.py"
    command = [sys.executable, str(script), "--kills", "6", "--damage", "100", "--seed", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit-equal, and every row of the journal once" in done.stdout
    assert "100 damaged states: the older one was taken 100 times" in done.stdout


def test_a_leader_that_fails_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads as two processes: what they would sum up over the network, they sum up in memory."""
    meeting, flags = threading.Barrier(2, timeout=20), [0.0, 0.0]

    class Pair(Team):
        def mean(self, x: Tensor) -> float:
            flags[self.rank] = float(x)
            meeting.wait()
            return sum(flags) / 2

    def leader() -> None:
        with pytest.raises(ZeroDivisionError), Pair(0, 2).leader_first():
            print(1 / 0)

    thread = threading.Thread(target=leader)
    thread.start()
    with pytest.raises(ScratchError, match="the first process failed"), Pair(1, 2).leader_first():
        raise AssertionError("nothing to read was made")
    thread.join()


class Kept(Line):
    """Writes down at which step it was asked to; four batches show everything."""

    result, per_epoch = "model", 4

    def export(self, model: nn.Module, folder: Path, step: int, seconds: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save([step, *weights(model)], folder / "model.pt")


def kept_in(folder: Path) -> dict[int, Any]:
    models = sorted((folder / "run" / "growth").glob("*/model.pt"))
    return {int(path.parent.name): torch.load(path, weights_only=True) for path in models}


def test_models_of_how_it_grows_are_kept_also_over_a_cut(tmp_path: Path) -> None:
    """After 1/16, 1/8, 1/4, 1/2 and all of 32 steps; the last is the result."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    outcome = train(Kept(), CONFIG, Budget(steps=32), whole / "run", keep=5)
    assert outcome.folder == whole / "model"
    stop, on_step = stop_after(5)
    for signal_for_it in ({"stop": stop, "on_step": on_step}, {"resume": True}):
        train(Kept(), CONFIG, Budget(steps=32), cut / "run", keep=5, **signal_for_it)  # type: ignore[arg-type]
    one, two = kept_in(whole), kept_in(cut)
    assert list(one) == list(two) == [2, 4, 8, 16, 32]
    for step, (written, *values) in one.items():
        assert written == step
        assert all(torch.equal(a, b) for a, b in zip(values, two[step][1:], strict=True))
    last = torch.load(whole / "model" / "model.pt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(last[1:], one[32][1:], strict=True))


def test_what_is_only_a_part_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing of this stage can be kept"):
        train(Line(), CONFIG, Budget(steps=2), tmp_path, keep=3)


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        (Budget(epochs=3), 12),
        (Budget(epochs=3, steps=5), 5),
        (Budget(epochs=1, steps=9), 4),
        (Budget(minutes=1e-9, epochs=3), 1),
    ],
)
def test_a_run_ends_after_epochs_steps_or_minutes(
    tmp_path: Path, budget: Budget, steps: int
) -> None:
    assert train(Kept(), CONFIG, budget, tmp_path / "run").step == steps


def test_there_are_no_epochs_where_every_picture_is_new(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there are no epochs"):
        train(Line(), CONFIG, Budget(epochs=1), tmp_path)


PROGRAMS = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").split("```python run\n")[1:]


@pytest.mark.parametrize("program", PROGRAMS, ids=["a task", "a data set"])
def test_the_programs_of_the_page_run(program: str) -> None:
    exec(compile(program.split("```")[0], "docs/training.md", "exec"), {})
