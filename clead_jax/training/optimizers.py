"""Optimizers by name: SGD with momentum and coupled weight decay, Adam; cosine or constant rate."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import optax

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


OPTIMIZERS: dict[str, Callable[[optax.Schedule, float], optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "adam": lambda rate, momentum: optax.adam(rate),  # arXiv 1412.6980
}
"""(rate, momentum) -> what follows the weight decay, which is added to the gradient as in PyTorch and the papers."""


def rate(schedule: str, lr: float, total_steps: int, warmup_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then constant or a cosine down to 0 at `total_steps`. ValueError for other names."""
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
    cosine = optax.cosine_decay_schedule(lr, max(1, total_steps - warmup_steps))
    after = cosine if schedule == "cosine" else optax.constant_schedule(lr)
    return optax.join_schedules([optax.linear_schedule(0.0, lr, max(1, warmup_steps)), after], [warmup_steps])


def make(settings: Settings, total_steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of one stage. Raises ValueError for an unknown optimizer or schedule."""
    if settings.optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {settings.optimizer!r}; known: {', '.join(sorted(OPTIMIZERS))}")
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    schedule = rate(settings.schedule, settings.lr, total_steps, warmup)
    follow = OPTIMIZERS[settings.optimizer](schedule, settings.momentum)
    main = optax.chain(optax.add_decayed_weights(settings.weight_decay), follow)
    if not settings.online_lr:
        return main
    is_head = lambda params: {part: jax.tree.map(lambda _: part == "head", params[part]) for part in params}  # noqa: B023
    return optax.partition({True: optax.adam(settings.online_lr), False: main}, is_head)
