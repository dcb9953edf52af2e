"""The frame of every training run: steps, learning rate, average, journal, states on the disk.

What is trained is a `Task`. A run is cut by a budget of steps or of minutes, by Ctrl-C, or by a kill, and goes on from its newest
state as if it had never stopped: weights, average, optimiser, random numbers and place in the data.
"""

import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sd_scratch.errors import ScratchError, UsageError, log
from sd_scratch.stop import Stop, endings
from sd_scratch.training.ema import Ema
from sd_scratch.training.journal import Journal
from sd_scratch.training.lock import only_run
from sd_scratch.training.settings import Budget, TrainConfig
from sd_scratch.training.state import RunState, check_settings, load_state, plain, save_state
from sd_scratch.training.task import Task

GROWTH = "growth"
LONGEST_STEP = 30.0  # seconds; a process that was stopped for an hour has not trained for an hour


OnStep = Callable[[int, float, dict[str, float]], None]
"""Told the step, the used share of the budget and the step's figures."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `interrupted` is true where the budget was not used up; the result lies in
    `folder`."""

    model: nn.Module
    ema: nn.Module
    step: int
    seconds: float
    interrupted: bool
    folder: Path


class Run:
    """A task, its optimiser and its average, between two states on the disk."""

    def __init__(self, task: Task, config: TrainConfig, folder: Path) -> None:
        self.task, self.config, self.folder = task, config, folder
        self.ema = Ema(task.model, config.ema_decay)
        self.optimizer = torch.optim.AdamW(
            task.model.parameters(),
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self.seconds = 0.0

    def settings(self) -> dict[str, Any]:
        """What a state of this run fits, as JSON has it."""
        fixed = asdict(self.config)
        for key in ("log_steps", "save_seconds", "look_seconds"):
            del fixed[key]  # these change nothing that is learnt
        return plain({**fixed, **self.task.settings()})

    def save(self, held: str = "") -> Path:
        """Write a state; `held` are the journal's rows that are not on the disk."""
        state = RunState(
            settings=self.settings(),
            step=self.step,
            seconds=self.seconds,
            model=self.task.model.state_dict(),
            ema=self.ema.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            generator=self.generator.get_state(),
            held=held,
        )
        return save_state(self.folder, state)

    def restore(self, state: RunState) -> None:
        """Go on from `state`. Raises `ScratchError` when it is of another run."""
        check_settings(state.settings, self.settings(), self.folder)
        try:
            self.task.model.load_state_dict(state.model)
            self.ema.model.load_state_dict(state.ema)
            self.optimizer.load_state_dict(state.optimizer)
            self.generator.set_state(state.generator)
        except (RuntimeError, KeyError, ValueError, TypeError):
            raise ScratchError(
                f"the state in {self.folder} does not fit this network - it was written by another"
                " version - train into another folder"
            ) from None
        self.step, self.seconds = state.step, state.seconds

    def learning_rate(self, used: float) -> float:
        """Linear warm-up, then constant, then linear down over the last part of the budget."""
        config = self.config
        warm = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        cool = min(1.0, max(config.final_lr_share, (1 - used) / max(config.decay_share, 1e-9)))
        return config.lr * warm * cool

    def take_step(self, used: float) -> dict[str, float]:
        """One step of AdamW, and figures about it.

        Raises `ScratchError` when the loss or its gradient is not finite, before anything changed.
        """
        rate = self.learning_rate(used)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, figures = self.task.loss(self.step, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), self.config.clip)
        if not bool(torch.isfinite(loss.detach()) & torch.isfinite(norm)):
            raise ScratchError(
                f"the loss is not finite at step {self.step} - the learning rate is too high"
                f" - lower it, or resume from the last state in {self.folder}"
            )
        self.optimizer.step()
        self.ema.update(self.task.model, self.step)
        self.step += 1
        return {"loss": float(loss.detach()), "grad_norm": float(norm), "lr": rate, **figures}


def train(
    task: Task,
    config: TrainConfig,
    budget: Budget,
    folder: Path,
    *,
    resume: bool = False,
    keep: int = 0,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
    clock: Callable[[], float] | None = None,
) -> Outcome:
    """Train `task` until the budget is used up or a stop is requested, and write the result.

    `keep` also writes what has been learnt after a half, a quarter, an eighth ... of the budget, so
    that there are so many in all: ``growth/STEP`` in `folder`.

    Of several processes that train together one leads, and writes; they share a clock and a stop.
    Raises `ScratchError` when `folder` holds a run and `resume` is false, when another process trains
    into it, when the settings are not those of the run that is resumed, when the loss is not finite, or
    when the last state cannot be written; states that were written before stay.
    """
    if keep and not task.result:
        raise UsageError(
            "nothing of this stage can be kept - its result is a part of the next one's"
        )
    budget = budget.counted(task.per_epoch)
    stop, leads = stop or task.team.stop(), task.team.leads
    result = folder.parent / (task.result or folder.name)
    with only_run(folder) if leads else nullcontext():
        run = Run(task, config, folder)
        held = _start(run, resume)
        with (
            Journal(folder, run.step, held, silent=not leads) as journal,
            stop.on_signals(signal.SIGINT, *endings()),
        ):
            watch = _Watch(run, journal, keep if leads else 0, on_step)
            used = _take_steps(run, budget, watch, stop, clock or task.team.clock)
            if leads:
                run.save(journal.held)
            if leads and used >= 1:
                watch.look()
        if leads and task.result:
            task.export(run.ema.model, result, run.step, run.seconds)
    return Outcome(task.model, run.ema.model, run.step, run.seconds, used < 1, result)


def _take_steps(
    run: Run, budget: Budget, watch: "_Watch", stop: Stop, clock: Callable[[], float]
) -> float:
    """Step until the budget is used up, or until `stop`; returns the used share."""
    while (used := budget.share(run.step, run.seconds)) < 1 and not stop.asked:
        began = clock()
        figures = run.take_step(used)
        run.seconds += min(LONGEST_STEP, clock() - began)
        watch.after_step(figures, used, budget.share(run.step, run.seconds))
    return used


def _start(run: Run, resume: bool) -> str:
    """Go on from the newest state, if there is one; returns the rows that it holds for the journal."""
    state = load_state(run.folder)
    if state is None:
        return ""
    if not resume:
        raise UsageError(
            f"{run.folder} holds a run at step {state.step} - it would be overwritten"
            " - resume it, or name another folder"
        )
    run.restore(state)
    return state.held


class _Watch:
    """What is done between steps, by the process that leads: rows, states, looks, kept models."""

    def __init__(self, run: Run, journal: Journal, keep: int, on_step: OnStep | None) -> None:
        self.run, self.journal, self.on_step = run, journal, on_step
        self.moments = [0.5**i for i in range(keep)]  # shares of the budget
        self.leads = run.task.team.leads
        self.last = dict.fromkeys(("save", "look"), run.seconds)
        self.sums: dict[str, float] = {}
        self.count = 0

    def after_step(self, figures: dict[str, float], before: float, used: float) -> None:
        """What is due after a step that took the used share of the budget from `before` to `used`."""
        run, config = self.run, self.run.config
        for key, value in figures.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        self.count += 1
        if run.step % config.log_steps == 0:
            means = {key: value / self.count for key, value in self.sums.items()}
            self.sums, self.count = {}, 0
            self.journal.write(run.step, minutes=run.seconds / 60, **means)
        if any(before < moment <= used for moment in self.moments):
            folder = run.folder / GROWTH / f"{run.step:07d}"
            run.task.export(run.ema.model, folder, run.step, run.seconds)
        if self.due("save", config.save_seconds):
            self.save()
        if self.due("look", config.look_seconds):
            self.look()
        if self.on_step is not None:
            self.on_step(run.step, used, figures)

    def due(self, name: str, interval: float) -> bool:
        if not self.leads or self.run.seconds - self.last[name] < interval:
            return False
        self.last[name] = self.run.seconds
        return True

    def look(self) -> None:
        self.journal.write(self.run.step, **self.run.task.look(self.run.ema.model, self.run.step))

    def save(self) -> None:
        """In the middle of a run a full disk is no reason to stop: there may be room by the next time."""
        try:
            self.run.save(self.journal.held)
        except ScratchError as error:
            log.warning("%s - the run goes on, without a newer state", error)
            self.journal.write(self.run.step, problem=str(error))
