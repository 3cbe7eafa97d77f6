"""What happens beside training: lines on the screen, metrics.jsonl, validation, checkpoints."""

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np

from clead_jax.core import stopping
from clead_jax.core.progress import log
from clead_jax.core.types import PyTree
from clead_jax.training.loop import Diverged, Plan, Sums
from clead_jax.training.metric_writer import MetricWriter
from clead_jax.training.progress import Progress
from clead_jax.training.state import TrainState


@dataclasses.dataclass
class Callbacks:
    """The `Hooks` of one stage. `validate` is called every `validate_every` epochs and at the end."""

    name: str
    plan: Plan
    passes: int  # per training image
    writer: MetricWriter
    progress: Progress
    fetch: Callable[[PyTree], PyTree]  # arrays to the host
    validate: Callable[[TrainState], dict[str, float]]  # state -> val_clean, val_robust
    save: Callable[..., None]  # step, epoch, state, score (None: it was not validated), more meta: writes a checkpoint
    validate_every: int
    save_every: int
    spent: float = 0.0  # seconds of the current epoch before this process began
    _saved: int = -1  # the last step that was
    _epoch_started: float = dataclasses.field(default_factory=time.monotonic)

    def on_log(self, step: int, means: dict[str, float]) -> None:
        """Measures the speed and renews the live line."""
        self.progress.tick(step, means["loss"])

    def on_epoch(self, epoch: int, step: int, state: TrainState, means: dict[str, float]) -> None:
        """Validates and saves where it is time to; one line in metrics.jsonl and on the screen.

        Raises Diverged for weights that are not finite, or whose gradients are not: they are not saved.
        """
        self._refuse_nonfinite(step, state)
        paused, plan = time.monotonic(), self.plan
        validated = epoch % self.validate_every == 0 or epoch == plan.epochs
        if validated:
            try:
                means |= self.validate(state)
            except FloatingPointError as error:
                raise Diverged(f"{error}, after step {step}", bad=step) from error
        line = {"stage": self.name, "step": step, "epoch": epoch, "epochs": plan.epochs, **means}
        seconds = round(
            self.spent + paused - self._epoch_started, 3
        )  # of training: what a validation costs is a choice of its own
        line |= {"images_per_s": self.progress.images_per_second, "seconds": seconds}
        self.writer.write(line | {"passes": plan.steps_per_epoch * plan.batch_size * self.passes})
        self.progress.epoch(epoch, step, means)
        if validated or epoch % self.save_every == 0:
            self.save(step, epoch, state, means.get("val_robust"))
            self._saved = step
        self.progress.leave_out(time.monotonic() - paused)
        self.spent, self._epoch_started = 0.0, time.monotonic()

    def on_stop(self, epoch: int, step: int, state: TrainState, sums: Sums) -> None:
        """Saves unless `on_epoch` just has, and says so. Raises Diverged as `on_epoch` does."""
        if step != self._saved:
            self._refuse_nonfinite(step, state)
            seconds = self.spent + time.monotonic() - self._epoch_started
            self.save(step, epoch, state, None, sums=sums, spent=seconds)
        log.info(f"{self.name}: stopped by {stopping.name()}, saved after step {step} of {self.plan.total_steps}")

    def _refuse_nonfinite(self, step: int, state: TrainState) -> None:
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(self.fetch(state.params))):
            raise Diverged(f"a weight is not finite after step {step}", bad=step)
