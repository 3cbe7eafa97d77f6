"""Who chooses the settings of the attack in training: a schedule of the epochs (FAT), or a network (LAS-AT).

A strategy is asked in every step, and its settings go into the attack `training_pgd` in place of those of the config.
What it keeps is part of the stage's state (`Extra`). This file has the form of a strategy and the simplest one; the
other is in `las_at`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import optax

from clead_jax.core import spec
from clead_jax.core.registry import STRATEGIES
from clead_jax.core.types import Array, Forward, Key
from clead_jax.training.state import NOTHING, Extra
from clead_jax.training.step import After, nothing_more
from clead_jax.training.views import Choose


class Surroundings(NamedTuple):
    """What a strategy may read of its stage."""

    network: Any
    image_shape: tuple[int, ...]
    augment: Callable[[Key, Array], Array]
    attack: Callable[[str], Callable[[Forward, Array, Array, Key], Array]]  # its text -> an attack on the labels
    attack_passes: Callable[[str], tuple[int, int]]  # its text -> its forward and backward passes
    rate: Callable[[float], optax.Schedule]  # a learning rate -> the schedule of the stage with that one
    lr: float
    weight_decay: float
    steps_per_epoch: int
    key: Key


class Strategy(NamedTuple):
    """`choose` sets the attack; `after` learns from a step; `passes` are the strategy's own per training image."""

    choose: Choose
    extra: Extra = NOTHING
    after: After = nothing_more
    passes: int = 0


def settings(text: str) -> Any:
    """'friendly(later=50:90)' -> the settings of that strategy. ValueError for another name or setting."""
    return spec.settings(text, "strategy", STRATEGIES[spec.parse(text)[0]].config, {})


def strategy(text: str, stage: Surroundings) -> Strategy | None:
    """'friendly(later=50:90)' -> a strategy; '' -> None. ValueError for another name or setting."""
    return STRATEGIES[spec.parse(text)[0]].value(settings(text), stage) if text else None


@dataclass(frozen=True)
class Friendly:
    """`later`: epochs after each of which tau grows by one; 50:90 in FAT, 30:50:70 with TRADES."""

    tau: int = 0
    later: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        spec.check_ranges(self, tau="[0, inf)")


@STRATEGIES.register("friendly", Friendly)
def friendly(cfg: Friendly, stage: Surroundings) -> Strategy:
    """Early-stopped PGD (FAT, arXiv 2002.11242): an image makes `tau` further steps once the model is wrong."""
    begin = np.array([epoch * stage.steps_per_epoch for epoch in cfg.later])
    return Strategy(lambda state, x, keys: {"counts": "errors", "tau": cfg.tau + (state.step >= begin).sum()})
