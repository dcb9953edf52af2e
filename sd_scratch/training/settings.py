"""How a network is trained, and for how long. Imports nothing heavy."""

from dataclasses import dataclass

from sd_scratch.errors import UsageError


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Intervals are in steps where they say so and in seconds otherwise."""

    batch: int
    lr: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup_steps: int = 200
    decay_share: float = 0.2  # the last part of the run, in which the rate falls linearly
    final_lr_share: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    log_steps: int = 100
    save_seconds: float = 120.0
    look_seconds: float = 300.0


@dataclass(frozen=True)
class Budget:
    """When to end: after `minutes` of training time, `steps` or `epochs`, whichever comes first."""

    minutes: float | None = None
    steps: int | None = None
    epochs: int | None = None

    def counted(self, per_epoch: int | None) -> "Budget":
        """The same with epochs counted in steps. Raises `UsageError` where no picture is seen twice."""
        if self.epochs is None:
            return self
        if per_epoch is None:
            raise UsageError(
                "every picture is new here, there are no epochs - name steps or minutes"
            )
        steps = self.epochs * per_epoch
        return Budget(self.minutes, min(steps, self.steps or steps))

    def share(self, step: int, seconds: float) -> float:
        """How much of it is used up, 0..1."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))
