"""Optimizers by name: SGD with momentum and coupled weight decay, Adam, AdamW, LARS; cosine or constant rate."""

from dataclasses import dataclass
from typing import Any

import jax
import optax

from clead_jax.core import spec

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Settings:
    """An optimizer and its rate. `online_lr` above 0: the head gets Adam at that rate, whatever the rest gets."""

    optimizer: str = "sgd"  # of `OPTIMIZERS`, with its settings: "lars(trust=0.02)"
    lr: float = 0.1
    momentum: float = 0.9  # SGD and LARS only
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    online_lr: float = 0.0


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    def make(self, rate: optax.Schedule, momentum: float, decay: float) -> optax.GradientTransformation:
        """The decay is added to the gradient, as in PyTorch and the papers."""
        return optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, momentum))


@dataclass(frozen=True)
class Adam:
    """Adam (arXiv 1412.6980)."""

    def make(self, rate: optax.Schedule, momentum: float, decay: float) -> optax.GradientTransformation:
        """The decay is added to the gradient, as in PyTorch."""
        return optax.chain(optax.add_decayed_weights(decay), optax.adam(rate))


@dataclass(frozen=True)
class AdamW:
    """Adam with the weight decay apart from the gradient (arXiv 1711.05101)."""

    def make(self, rate: optax.Schedule, momentum: float, decay: float) -> optax.GradientTransformation:
        """The decay shrinks the weights by rate * decay in every step."""
        return optax.adamw(rate, weight_decay=decay)


@dataclass(frozen=True)
class LARS:
    """Every layer's step is `trust` times as long as its weights, times the rate (arXiv 1708.03888).

    The momentum gathers steps that the rate is in already. Biases and the scales of BatchNorm have neither decay nor a
    step length of their own (SimCLR, arXiv 2002.05709, Sec. 2.2), unless `vectors` is true.
    """

    trust: float = 0.001
    vectors: bool = False

    def __post_init__(self) -> None:
        spec.check_ranges(self, trust="(0, inf)")

    def make(self, rate: optax.Schedule, momentum: float, decay: float) -> optax.GradientTransformation:
        """The decay counts as gradient where the length of a step is found."""
        mask = lambda tree: jax.tree.map(lambda leaf: self.vectors or leaf.ndim > 1, tree)
        return optax.lars(rate, decay, mask, self.trust, trust_ratio_mask=mask, momentum=momentum)


OPTIMIZERS: dict[str, type[Any]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "lars": LARS}
"""Frozen dataclasses with `make(rate, momentum, weight decay)`."""


def rate(schedule: str, lr: float, total_steps: int, warmup_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then constant or a cosine down to 0 at `total_steps`. ValueError for other names."""
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(SCHEDULES)}")
    cosine = optax.cosine_decay_schedule(lr, max(1, total_steps - warmup_steps))
    after = cosine if schedule == "cosine" else optax.constant_schedule(lr)
    return optax.join_schedules([optax.linear_schedule(0.0, lr, max(1, warmup_steps)), after], [warmup_steps])


def make(settings: Settings, total_steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of one stage. Raises ValueError for an unknown optimizer or schedule."""
    name, _ = spec.parse(settings.optimizer)
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(sorted(OPTIMIZERS))}")
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    schedule = rate(settings.schedule, settings.lr, total_steps, warmup)
    rule = spec.settings(settings.optimizer, "optimizer", OPTIMIZERS[name], {})
    main: optax.GradientTransformation = rule.make(schedule, settings.momentum, settings.weight_decay)
    if not settings.online_lr:
        return main
    is_head = lambda params: {part: jax.tree.map(lambda _: part == "head", params[part]) for part in params}  # noqa: B023
    return optax.partition({True: optax.adam(settings.online_lr), False: main}, is_head)
