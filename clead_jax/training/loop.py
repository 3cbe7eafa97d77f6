"""The one training loop: every stage is this loop over another `Step`, and what else it does goes through hooks.

To resume needs only the number of the next step: the order of an epoch is a function of (seed key, epoch), the key of a
step one of (seed key, step).
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from clead_jax.core import stopping
from clead_jax.core.types import Key, PyTree, Step

AHEAD = 2  # steps that the host starts before it waits for one: enough for the devices never to wait
FIRST_LOOKS = (1, 5)  # steps after a start: the first is slower than others, those up to the next give the speed


class Plan(NamedTuple):
    """How long a stage trains: `epochs` passes over `num_examples` in whole batches; an epoch's ragged tail waits.

    `extra_per_batch` of a batch are drawn from `extra` further examples, which stand behind the others; an epoch is
    still as many images as there are without them, so that it costs the same.
    """

    num_examples: int
    batch_size: int
    epochs: int
    extra: int = 0
    extra_per_batch: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.num_examples // self.batch_size

    @property
    def total_steps(self) -> int:
        """Steps in the whole stage."""
        return self.epochs * self.steps_per_epoch

    def order(self, key: Key, epoch: int) -> np.ndarray:
        """A fresh permutation for this epoch, cut into rows [steps_per_epoch, batch_size] of example indices."""
        key, steps, own = jax.random.fold_in(key, epoch), self.steps_per_epoch, self.batch_size - self.extra_per_batch
        rows = _shuffled(key, self.num_examples, (steps, own))
        if not self.extra_per_batch:
            return rows
        more = _shuffled(jax.random.fold_in(key, 1), self.extra, (steps, self.extra_per_batch))
        return np.concatenate([rows, self.num_examples + more], axis=1)

    def rows(self, key: Key, first_step: int) -> Iterator[np.ndarray]:
        """The index rows [batch_size] of all steps from `first_step` on, epoch after epoch."""
        for epoch in range(first_step // max(1, self.steps_per_epoch), self.epochs):
            yield from self.order(key, epoch)[max(0, first_step - epoch * self.steps_per_epoch) :]


def _shuffled(key: Key, count: int, shape: tuple[int, int]) -> np.ndarray:
    """Numbers below `count` in random order, from the beginning again where there are not enough of them."""
    return np.resize(np.asarray(jax.random.permutation(key, count)), shape)


Sums = dict[str, tuple[float, float]]  # metric -> its sum and how many it is over


class Hooks(Protocol):
    """What happens beside the training itself."""

    def on_log(self, step: int, means: dict[str, float]) -> None:
        """After `step` steps, all of them finished; `means` over the steps since the last call."""

    def on_epoch(self, epoch: int, step: int, state: PyTree, means: dict[str, float]) -> None:
        """After `epoch` whole epochs; `means` over the steps of this epoch."""

    def on_stop(self, epoch: int, step: int, state: PyTree, sums: Sums) -> None:
        """The program is to end after `step` steps; `sums` are what `fit` needs to go on within the epoch."""


class Diverged(FloatingPointError):
    """The loss, or a weight, is no longer a finite number. `bad` is the number of steps that led to such weights."""

    def __init__(self, message: str, bad: int):
        super().__init__(message)
        self.bad = bad


@stopping.deferred()
def fit(
    step_fn: Step,
    state: PyTree,
    frozen: PyTree,
    *,
    plan: Plan,
    key: Key,
    first_step: int,
    place: Callable[[np.ndarray], PyTree],
    fetch: Callable[[PyTree], PyTree],
    hooks: Hooks,
    log_every: int,
    sums: Sums | None = None,
    in_turn: Callable[..., Iterator[PyTree]] = map,
) -> PyTree:
    """Runs steps `first_step` .. `plan.total_steps` - 1 and returns the last state.

    `place` makes of an index row [batch_size] what the step takes, on the devices, and `in_turn` maps it over all rows,
    perhaps ahead of their use. `fetch` brings metrics to the host: at the first looks and every `log_every` steps only,
    so that the devices hardly wait; batches take memory there, so the host is at most `AHEAD` steps ahead. `sums` is
    what `on_stop` was given of the epoch that was stopped. Raises Diverged, naming the first step whose loss is not
    finite; a signal (see `core.stopping`) ends the loop after the step it finds.
    """
    order_key, step_key = jax.random.split(key)
    pending: list[Any] = []
    epoch_sums: Sums = sums or {}
    batches = in_turn(place, plan.rows(order_key, first_step))
    for number, batch in enumerate(batches, start=first_step):
        epoch, row = divmod(number, plan.steps_per_epoch)
        state, metrics = step_fn(state, frozen, batch, jax.random.fold_in(step_key, number))
        pending.append(metrics)
        jax.block_until_ready(pending[-AHEAD - 1 : -AHEAD])
        done, stop, ends = number + 1, stopping.due(), row + 1 == plan.steps_per_epoch
        if stop or ends or done % log_every == 0 or done - first_step in FIRST_LOOKS:
            fetched, pending = fetch(pending), []
            for step, metrics in enumerate(fetched, start=done - len(fetched) + 1):
                if not np.isfinite(loss := metrics["loss"][0]):
                    raise Diverged(f"the loss is {loss} at step {step}", bad=step - 1)
            epoch_sums = functools.reduce(_add, fetched, epoch_sums)  # one by one: rounding knows nothing of the looks
            hooks.on_log(done, _means(functools.reduce(_add, fetched, {})))
        if ends:
            hooks.on_epoch(epoch + 1, done, state, _means(epoch_sums))
            epoch_sums = {}
        if stop:
            hooks.on_stop(epoch + ends, done, state, epoch_sums)
            stopping.check()
    return state


def _add(a: dict, b: dict) -> dict:
    return {k: tuple(float(x) + float(y) for x, y in zip(a.get(k, (0.0, 0.0)), b[k], strict=True)) for k in b}


def _means(sums: Sums) -> dict[str, float]:
    return {k: total / count for k, (total, count) in sums.items()}
