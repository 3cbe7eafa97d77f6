"""How long attacks may take, and what is said of their progress."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from clead_jax.core import spec
from clead_jax.core.types import NamedAttack


class Budget(NamedTuple):
    """When to stop: after so many seconds, or so many passes per example in all."""

    seconds: float = math.inf
    passes: float = math.inf


UNLIMITED = Budget()


class Progress(NamedTuple):
    """What a listener hears."""

    attack: str
    correct: int  # examples still classified correctly
    total: int
    seconds_left: float  # at most; inf while that is not known


def lines(say: Callable[[str], None], name: str, every_attack: bool, every: float = 5.0) -> Callable[[Progress], None]:
    """A listener that puts progress into words: at most once in `every` seconds, and at each new attack if asked to."""
    last: tuple[str, float] = "", time.monotonic()

    def heard(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if (every_attack and progress.attack != last[0]) or now - last[1] >= every:
            last = progress.attack, now
            _, correct, total, seconds = progress
            left = f", at most {spec.duration(seconds)} left" if seconds < math.inf else ""
            say(f"{name}{progress.attack}  {correct}/{total} still correct ({correct / total:.1%}){left}")

    return heard


def weight(named: NamedAttack, num_classes: int) -> float:
    """What a step of an attack costs, in forward passes: a backward pass is about two."""
    forward, backward = named.attack.passes(named.cfg, num_classes)
    return forward + 2 * backward
