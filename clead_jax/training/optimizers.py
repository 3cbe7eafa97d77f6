"""Optimizers by name: SGD, Adam, AdamW and LARS; a cosine, a constant or a stepped rate."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax

from clead_jax.core import spec


@dataclass(frozen=True)
class Cosine:
    """Down to 0 along half a cosine (arXiv 1608.03983)."""

    def after_warmup(self, lr: float, total_steps: int, epochs: Callable[[float], int]) -> optax.Schedule:
        """The rate by the number of steps since the warm-up; `epochs` tells in how many of them so many epochs end."""
        return optax.cosine_decay_schedule(lr, max(1, total_steps))


@dataclass(frozen=True)
class Constant:
    """The same rate to the end."""

    def after_warmup(self, lr: float, total_steps: int, epochs: Callable[[float], int]) -> optax.Schedule:
        """As `Cosine.after_warmup`."""
        return optax.constant_schedule(lr)


@dataclass(frozen=True)
class Steps:
    """Times a factor after each of some epochs (He et al., arXiv 1512.03385, Sec. 4.2): "steps(epochs=100:150)".

    One factor for all, or one for each: "steps(epochs=60:90:110,factor=0.1:0.1:0.5)". Raises ValueError for epochs that
    do not rise, and for another number of factors.
    """

    epochs: tuple[float, ...] = ()
    factor: tuple[float, ...] = (0.1,)

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in itertools.pairwise((0, *self.epochs)))
        if not self.epochs or not rising or len(self.factor) not in (1, len(self.epochs)) or min(self.factor) <= 0:
            raise ValueError(
                "write rising epochs, one factor above 0 or one for each: steps(epochs=100:150,factor=0.1)"
            )

    def after_warmup(self, lr: float, total_steps: int, epochs: Callable[[float], int]) -> optax.Schedule:
        """As `Cosine.after_warmup`."""
        factors = self.factor * len(self.epochs) if len(self.factor) == 1 else self.factor
        return optax.piecewise_constant_schedule(lr, dict(zip(map(epochs, self.epochs), factors, strict=True)))


SCHEDULES: dict[str, Any] = {"cosine": Cosine, "constant": Constant, "steps": Steps}


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


def rate(text: str, lr: float, total_steps: int, warmup_steps: int, steps_per_epoch: int = 1) -> optax.Schedule:
    """Linear warm-up from 0, then the schedule: "cosine", "steps(epochs=100:150)". ValueError for other names."""
    name, _ = spec.parse(text)
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; known: {', '.join(SCHEDULES)}")
    schedule = spec.settings(text, "schedule", SCHEDULES[name], {})
    epochs = lambda number: round(number * steps_per_epoch) - warmup_steps
    after = schedule.after_warmup(lr, total_steps - warmup_steps, epochs)
    return optax.join_schedules([optax.linear_schedule(0.0, lr, max(1, warmup_steps)), after], [warmup_steps])


def rate_of(own: Any, lr: float, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate that `own.schedule` and `own.warmup_epochs` make of `lr`."""
    return rate(own.schedule, lr, total_steps, round(own.warmup_epochs * steps_per_epoch), steps_per_epoch)


def make(settings: Settings, total_steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of one stage. Raises ValueError for an unknown optimizer or schedule."""
    name, _ = spec.parse(settings.optimizer)
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(sorted(OPTIMIZERS))}")
    schedule = rate_of(settings, settings.lr, total_steps, steps_per_epoch)
    rule = spec.settings(settings.optimizer, "optimizer", OPTIMIZERS[name], {})
    main: optax.GradientTransformation = rule.make(schedule, settings.momentum, settings.weight_decay)
    if not settings.online_lr:
        return main
    is_head = lambda params: {part: jax.tree.map(lambda _: part == "head", params[part]) for part in params}  # noqa: B023
    return optax.partition({True: optax.adam(settings.online_lr), False: main}, is_head)
