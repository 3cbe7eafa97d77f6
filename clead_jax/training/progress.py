"""What is shown while a stage trains: the cost first, a line an epoch, a live line on a terminal."""

import logging
import sys
import time

from clead_jax.core.progress import log
from clead_jax.core.spec import duration
from clead_jax.training.loop import Plan


class Progress:
    """Speed, ETA and lines for one stage, if `show`. `later`: forward+backward passes of the run after this stage."""

    def __init__(self, stage: str, plan: Plan, passes_per_image: int, show: bool = True, later: int = 0):
        self._stage, self._plan, self._passes, self._show, self._later = stage, plan, passes_per_image, show, later
        self._live = show and sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
        self._clock: tuple[float, int] | None = None  # (time, step) of the first tick: the first step is slower
        self.images_per_second = 0.0  # training images, not views; 0 until two ticks were heard

    def start(self) -> None:
        """Says what the stage will cost; how long is said once the first steps were measured."""
        plan, total = self._plan, self._plan.total_steps * self._plan.batch_size * self._passes
        size = f"{plan.epochs} epochs x {plan.steps_per_epoch} steps x {plan.batch_size} images"
        self._say(f"{self._stage}: {size} x {self._passes} forward+backward passes = {total:.3g} passes")

    def tick(self, step: int, loss: float) -> None:
        """Called every few steps: measures the speed, and tells how long the stage will take when it first knows."""
        now = time.monotonic()
        if self._clock is None:
            self._clock = now, step
            return
        seconds_a_step = (now - self._clock[0]) / (step - self._clock[1])
        first = not self.images_per_second
        self.images_per_second = self._plan.batch_size / seconds_a_step
        if first:
            # What the stages to come add at this speed a pass: roughly, for not every pass takes the same time.
            whole = self._seconds_left(step) + self._later / (self.images_per_second * self._passes)
            run = f"; the whole run at most about {duration(whole)}" if self._later else ""
            self._say(f"{self._stage}: {seconds_a_step:.3g} s a step at first, {self.eta(step)}{run}")
        if self._live:
            line = f"step {step}/{self._plan.total_steps}  loss {loss:.4f}  {self.eta(step)}"
            print(f"\r  {line}\033[K", end="", file=sys.stderr, flush=True)

    def leave_out(self, seconds: float) -> None:
        """Time that was no training (validation, checkpoints) does not count in the speed."""
        if self._clock:
            self._clock = self._clock[0] + seconds, self._clock[1]

    def eta(self, step: int) -> str:
        """'ETA 3 min 10 s', or '' before anything was measured."""
        return f"ETA {duration(self._seconds_left(step))}" if self.images_per_second else ""

    def _seconds_left(self, step: int) -> float:
        return (self._plan.total_steps - step) * self._plan.batch_size / self.images_per_second

    def epoch(self, epoch: int, step: int, means: dict[str, float]) -> None:
        """One line for a finished epoch."""
        values = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        speed = f"{self.images_per_second:.0f} images/s" if self.images_per_second else ""
        self._say(f"{self._stage}  epoch {epoch}/{self._plan.epochs}  {values}  {speed}  {self.eta(step)}".rstrip())

    def _say(self, line: str) -> None:
        if self._show:
            if self._live:
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            log.info(line)
