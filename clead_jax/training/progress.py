"""What a person sees while a stage trains: one line an epoch, a live line between on a terminal, and the cost up front."""

import sys
import time

from clead_jax.training.loop import Plan


def duration(seconds: float) -> str:
    """3723 -> '1 h 02 min'; 75 -> '1 min 15 s'; 4.2 -> '4 s'."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Progress:
    """Speed, ETA and lines for one stage. Silent where `show` is False (all processes but the first)."""

    def __init__(self, stage: str, plan: Plan, passes_per_image: int, first_step: int, show: bool = True):
        self._stage, self._plan, self._show = stage, plan, show
        self._passes = passes_per_image
        self._first, self._started, self._speed = first_step, time.monotonic(), None
        self._live = show and sys.stderr.isatty()

    def cost(self) -> str:
        """'200 epochs x 87 steps x 512 images x 13 forward+backward passes = 1.2e+08 passes'."""
        plan = self._plan
        total = plan.total_steps * plan.batch_size * self._passes
        return (
            f"{plan.epochs} epochs x {plan.steps_per_epoch} steps x {plan.batch_size} images"
            f" x {self._passes} forward+backward passes = {total:.3g} passes"
        )

    def start(self) -> None:
        """Says what the stage will cost; how long is said once the first steps were measured."""
        self._say(f"{self._stage}: {self.cost()}")

    def tick(self, step: int, loss: float) -> None:
        """Called every few steps. The first call only starts the clock: it holds the compilation."""
        now = time.monotonic()
        if self._speed is None:
            self._since, self._at, self._speed = now, step, 0.0
            return
        seconds_a_step = (now - self._since) / (step - self._at)
        if not self._speed:
            left = (self._plan.total_steps - step) * seconds_a_step
            self._say(f"{self._stage}: about {duration(left)} at the {seconds_a_step:.3g} s a step measured so far")
        self._speed = self._plan.batch_size / seconds_a_step
        if self._live:
            print(f"\r  step {step}/{self._plan.total_steps}  loss {loss:.4f}  {self.eta(step)}\033[K", end="", file=sys.stderr)

    def eta(self, step: int) -> str:
        """'ETA 3 min 10 s', or '' before anything was measured."""
        if not self._speed:
            return ""
        return f"ETA {duration((self._plan.total_steps - step) * self._plan.batch_size / self._speed)}"

    @property
    def images_per_second(self) -> float:
        """Training images (not views) per second, compilation left out; 0 before two looks at the loss."""
        return self._speed or 0.0

    def epoch(self, epoch: int, step: int, means: dict[str, float]) -> None:
        """One line for a finished epoch."""
        values = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        speed = f"{self.images_per_second:.0f} images/s" if self._speed else ""
        self._say(f"{self._stage}  epoch {epoch}/{self._plan.epochs}  {values}  {speed}  {self.eta(step)}".rstrip())

    def finish(self) -> float:
        """Seconds since the stage was started or resumed, compilation included."""
        return time.monotonic() - self._started

    def _say(self, line: str) -> None:
        if self._show:
            if self._live:
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            print(line, flush=True)
