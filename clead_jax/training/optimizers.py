"""Optimizers by name: SGD with momentum and coupled weight decay, Adam; cosine or constant rate."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import optax

from clead_jax.core.types import PyTree

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Settings:
    """An optimizer and its rate. `online_lr` above 0: the head gets Adam at that rate, whatever the rest gets."""

    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9  # SGD only
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    online_lr: float = 0.0


def sgd(rate: optax.Schedule, momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """SGD as in PyTorch and the papers: the decay is added to the gradient, before the momentum."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum))


def adam(rate: optax.Schedule, momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """Adam (arXiv 1412.6980) with the decay added to the gradient; `momentum` is not used."""
    del momentum
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(rate))


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"sgd": sgd, "adam": adam}


def rate(schedule: str, lr: float, total_steps: int, warmup_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then constant or a cosine down to 0 at `total_steps`. ValueError for other names."""
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
    if schedule == "cosine":
        after = optax.cosine_decay_schedule(lr, max(1, total_steps - warmup_steps))
    else:
        after = optax.constant_schedule(lr)
    return optax.join_schedules([optax.linear_schedule(0.0, lr, max(1, warmup_steps)), after], [warmup_steps])


def make(settings: Settings, total_steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of one stage. Raises ValueError for an unknown optimizer or schedule."""
    if settings.optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {settings.optimizer!r}; known: {', '.join(sorted(OPTIMIZERS))}")
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    schedule = rate(settings.schedule, settings.lr, total_steps, warmup)
    main = OPTIMIZERS[settings.optimizer](schedule, settings.momentum, settings.weight_decay)
    if not settings.online_lr:
        return main
    return optax.partition({True: optax.adam(settings.online_lr), False: main}, _is_head)


def _is_head(params: PyTree) -> PyTree:
    return {part: jax.tree.map(lambda _, here=part == "head": here, leaves) for part, leaves in params.items()}
