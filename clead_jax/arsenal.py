"""From the attacks a config names, like "pgd(steps=10)", to attacks that run with the settings of their section."""

import dataclasses
import typing
from typing import Any

import jax

from clead_jax import attacks, values
from clead_jax.evaluation.robust import NamedAttack
from clead_jax.registry import ATTACKS
from clead_jax.training.views import Attack


def named_attack(text: str, threat: dict[str, Any], common: dict[str, Any]) -> NamedAttack:
    """'pgd(steps=10)' -> an attack. `threat` (norm, eps) holds for all attacks that have such a field; `common`
    (steps, step_size ...) for those registered with `tunable=True`; what stands in parentheses overrides both.

    Raises ValueError for an unknown attack or setting, naming the known ones.
    """
    name, own = values.spec(text)
    entry = ATTACKS[name]
    fields = {f.name: f for f in dataclasses.fields(entry.config)}
    for key in own:
        if key not in fields:
            raise ValueError(f"attack {name!r} has no setting {key!r}; it has {', '.join(fields)}")
    given = {**threat, **(common if entry.info.get("tunable") else {}), **own}
    types = typing.get_type_hints(entry.config)
    cfg = entry.config(**{k: _coerce(v, types[k], f"{text}: {k}") for k, v in given.items() if k in fields})
    if "eps" in fields:
        values.unit(cfg.eps, f"{text}: eps", getattr(cfg, "norm", "linf"))
    return NamedAttack(text, entry.value, entry.info["objective"], cfg)


def _coerce(value: Any, wanted: Any, name: str) -> Any:
    if wanted is bool:
        if str(value).lower() not in ("true", "false"):
            raise ValueError(f"{name}: {value!r} is neither true nor false")
        return str(value).lower() == "true"
    if wanted is str:
        return str(value)
    return values.whole(value, name) if wanted is int else values.number(value, name)


def training_attack(cfg: Any, text: str) -> Attack:
    """An attack for use inside a training step: its last iterate, no extra forward pass."""
    named = _training(cfg, text)

    def attack(model: Any, x: jax.Array, target: jax.Array, keys: jax.Array) -> jax.Array:
        return attacks.run(named.attack, model, named.objective, x, target, keys, named.cfg)

    return attack


def evaluation_attack(cfg: Any, text: str) -> NamedAttack:
    """An attack as `evaluation` wants it: the best iterate counts. ValueError if it measures in another norm."""
    named = named_attack(text, *_threat(cfg.evaluation, ("steps", "step_size", "restarts")))
    if named.cfg.norm != cfg.evaluation.norm:
        raise ValueError(f"attack {text!r} measures in {named.cfg.norm}, evaluation.norm is {cfg.evaluation.norm}")
    return named._replace(radius=values.number(cfg.evaluation.eps))


def distance_attack(cfg: Any, text: str) -> NamedAttack:
    """An attack that looks for the nearest error, however far that is. ValueError if this one does not."""
    name, _ = values.spec(text)
    if not ATTACKS[name].info.get("nearest"):
        known = ", ".join(n for n in ATTACKS if ATTACKS[n].info.get("nearest"))
        raise ValueError(
            f"evaluation.distances: attack {name!r} does not look for the nearest error; these do: {known}"
        )
    norm = cfg.evaluation.norm
    return named_attack(text, {"norm": norm, "eps": 1.0 if norm == "linf" else 1e6}, {})


def validation_attack(cfg: Any) -> NamedAttack:
    """The attack behind "best by validation"."""
    return named_attack(cfg.validation.attack, *_threat(cfg.train_attack, ("step_size",)))


def _threat(section: Any, common: tuple[str, ...], **more: Any) -> tuple[dict, dict]:
    return {k: section[k] for k in ("norm", "eps")}, {k: section[k] for k in common} | more


def training_cost(cfg: Any, text: str) -> int:
    """Forward+backward passes per image of a training attack."""
    named = _training(cfg, text)
    return named.attack.num_steps(named.cfg)


def _training(cfg: Any, text: str) -> NamedAttack:
    common = ("steps", "step_size", "random_start")
    return named_attack(text, *_threat(cfg.train_attack, common, keep="last"))
