"""What changes in a stage while it trains: numbers by their schedules, and the embeddings of past batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from clead_jax.core import spec
from clead_jax.core.types import Array, Key, NamedAttack
from clead_jax.losses.contrastive import Bank
from clead_jax.losses.parse import Now
from clead_jax.training import bank, schedules, views
from clead_jax.training.loop import Plan
from clead_jax.training.state import Extra, TrainState
from clead_jax.training.step import After

OF_ATTACKS = ("eps", "step_size", "steps")


class Changing(NamedTuple):
    """Where it enters a step."""

    choose: views.Choose  # settings of the attacks
    strength: views.Strength
    now: Callable[[TrainState], Now]  # settings of the loss, and its bank
    extra: Extra
    after: After


def changing(own: Any, plan: Plan, dim: int) -> Changing:
    """What changes in a stage that compares embeddings of `dim` numbers."""
    values = schedules.values(own.schedules, own.epochs, plan.steps_per_epoch)
    falling = views.falling(getattr(own, "fade_every", 0), own.epochs, plan.steps_per_epoch)
    strength = lambda step: values(step).get("strength", falling(step))

    def choose(state: TrainState, x: Array, keys: Key) -> dict[str, Any]:
        return {name: value for name, value in values(state.step).items() if name in OF_ATTACKS}

    def now(state: TrainState) -> Now:
        kept = bank.rows(state.extra)
        return Now({**values(state.step), "strength": strength(state.step)}, Bank(*kept) if kept else None)

    size = getattr(own, "bank", 0)
    return Changing(choose, strength, now, bank.extra(size, dim), bank.after(size))


def check(own: Any, name: str, attacks: list[NamedAttack], fades: bool, of_loss: set[str]) -> None:
    """Raises ValueError for schedules of what a stage does not have, or with values that cannot be.

    `fades`: whether a strength changes anything; `of_loss`: what of its loss can change, by name.
    """
    of_attacks = {setting for setting in OF_ATTACKS for attack in attacks if setting in attack.settings}
    known = sorted({*of_attacks, *of_loss, *(["strength"] if fades else [])})
    for setting, rule in schedules.parse(own.schedules).items():
        where = f"{name}.schedules: {setting}"
        if setting not in known:
            raise ValueError(f"{where}: nothing here has such a number; what can change is {', '.join(known)}")
        if setting == "strength" and getattr(own, "fade_every", None):
            raise ValueError(f"{where} and {name}.fade_every={own.fade_every} both set the strength; leave one out")
        for value in rule.ends:
            _check_value(setting, value, where, attacks)


def _check_value(setting: str, value: float, where: str, attacks: list[NamedAttack]) -> None:
    most = 1.0 if setting == "strength" else float("inf")
    if (setting == "strength" or setting.startswith("weight_")) and not 0 <= value <= most:
        raise ValueError(f"{where} becomes {value:g}; it lies in [0, {most:g}]")
    for attack in attacks if setting in OF_ATTACKS else ():
        if setting == "steps":
            spec.whole(value, where, 0, attack.attack.num_steps(attack.cfg))
        else:
            spec.unit(value, where, attack.settings.get("norm", "linf"))


def traced(own: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """The scheduled numbers as a compiled step sees them: float32, with values that are not known yet."""
    return {name: jax.ShapeDtypeStruct((), "float32") for name in schedules.parse(own.schedules)}
