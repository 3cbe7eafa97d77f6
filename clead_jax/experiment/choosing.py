"""The strategy of a stage, if it has one: from its text to what chooses the settings of the attack in each step."""

from collections.abc import Callable
from typing import Any

import jax

import clead_jax.training.las_at  # noqa: F401  importing it registers the strategy
from clead_jax.core.types import Key, NamedAttack
from clead_jax.training import optimizers, strategies
from clead_jax.training.loop import Plan
from clead_jax.training.strategies import Strategy, Surroundings
from clead_jax.training.views import Attack, Augment

FIXED = Strategy(lambda state, x, keys: {})


def strategy(
    own: Any,
    net: Any,
    image_shape: tuple[int, ...],
    plan: Plan,
    augment: Augment,
    key: Key,
    attack: Callable[[str], Attack],
    named: Callable[[str], NamedAttack],
) -> Strategy:
    """What chooses the settings of a stage's attacks; where the stage names nothing they are those of the config."""
    stage = Surroundings(
        network=net,
        image_shape=image_shape,
        augment=augment,
        attack=attack,
        attack_passes=lambda text: named(text).passes(net.num_classes),
        rate=lambda lr: optimizers.rate_of(own, lr, plan.total_steps, plan.steps_per_epoch),
        lr=own.lr,
        weight_decay=own.weight_decay,
        steps_per_epoch=plan.steps_per_epoch,
        key=jax.random.fold_in(key, 2),  # 1 are the initial weights
    )
    return strategies.strategy(getattr(own, "strategy", ""), stage) or FIXED


def check(text: str, attacks: list[NamedAttack], named: Callable[[str], NamedAttack], where: str) -> None:
    """Raises ValueError for an unknown strategy, for attacks whose settings it cannot choose, or that make fewer steps
    than it may ask for.
    """
    if not text:
        return
    settings = strategies.settings(text)
    most = getattr(settings, "most_steps", 0)
    if score := getattr(settings, "attack", ""):
        named(score)
    if not attacks or not all("counts" in attack.settings for attack in attacks):
        raise ValueError(f"{where} is {text!r}, which sets training_pgd alone: write attack=training_pgd(steps=10)")
    for attack in attacks:
        if (steps := attack.settings["steps"]) < most:
            said = f"may ask for {most} steps, but the attack {attack.name} makes {steps}"
            raise ValueError(f"{where} is {text!r}: it {said}; write training_pgd(steps={most})")
